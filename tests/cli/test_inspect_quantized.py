"""`qconvert inspect` of quantized safetensors: those made here, and others' that are damaged."""

import json
import shutil
import struct
from math import prod
from pathlib import Path

import pytest
from checkpoints import TINY, Llama, write_llama

from qconvert.cli.inspect_quantized import as_data
from qconvert.inspection.quantized import look_at_quantized

LAYERS = 7 * TINY.layers
LINEAR = sum(
    prod(shape) for name, shape in TINY.shapes.items() if len(shape) > 1 and "embed" not in name
)


RECIPE = """
folder: .
outputs:
  - w8a8
  - w4a16
  - fp8
  - nvfp4a16
  - mxfp4a16
  - w4a8
  - {type: fp8, strategy: block, output: fp8-block}
"""


@pytest.fixture(scope="module")
def made(qconvert, model, tmp_path_factory) -> Path:
    """A directory of each kind."""
    folder = tmp_path_factory.mktemp("outputs")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    done = qconvert("quantize", model, "--recipe", recipe, "--quiet")
    assert done.returncode == 0, done.stderr
    return folder


def inspect(path: Path) -> dict:
    """What `--json` prints, without the process."""
    return json.loads(json.dumps(as_data(look_at_quantized(path.name, path))))


DYNAMIC_INT = {"type": "int", "bits": 8, "strategy": "token", "dynamic": True, "symmetric": True}


@pytest.mark.parametrize(
    ("scheme", "stored", "inputs", "bits"),
    [
        ("w8a8", ("int-quantized", "int", 8, "channel", None), DYNAMIC_INT, (8.03, 8.1)),
        ("w4a16", ("pack-quantized", "int", 4, "group", 128), None, (4.12, 4.14)),
        (
            "fp8",
            ("float-quantized", "float", 8, "channel", None),
            {**DYNAMIC_INT, "type": "float"},
            (8.03, 8.1),
        ),
        ("nvfp4a16", ("nvfp4-pack-quantized", "float", 4, "group", 16), None, (4.5, 4.51)),
        ("w4a8", ("int-quantized", "int", 4, "group", 128), DYNAMIC_INT, (8.12, 8.14)),
        ("mxfp4a16", ("mxfp4-pack-quantized", "float", 4, "group", 32), None, (4.25, 4.25)),
    ],
)
def test_every_scheme_that_is_written_is_told_again(made, scheme, stored, inputs, bits):
    path = made / f"tiny-llama-{scheme}"
    data = inspect(path)
    assert data["kind"] == "quantized"
    assert (data["method"], data["format"]) == ("compressed-tensors", stored[0])
    assert data["architecture"] == "llama"
    assert data["parameters"] == sum(prod(shape) for shape in TINY.shapes.values())
    (found,) = data["quantized"]
    keys = ("format", "type", "bits", "strategy", "group_size")
    assert tuple(found[key] for key in keys) == stored
    assert found["symmetric"] is True
    assert found["inputs"] == inputs
    assert len(found["layers"]) == LAYERS
    assert found["weights"] == LINEAR
    assert bits[0] <= found["bits_per_weight"] <= bits[1]
    assert [tensor["name"] for tensor in data["not_quantized"]] == ["model.embed_tokens.weight"]
    assert data["made_by"]["qconvert.source"] == "tiny-llama"
    assert any("transformers" in line for line in data["loads_in"])
    config = json.loads((path / "config.json").read_text())["quantization_config"]
    assert data["quantization_config"] == config


def test_sizes_are_those_of_the_file(made):
    path = made / "tiny-llama-w4a16"
    data = inspect(path)
    file = path / "model.safetensors"
    (header,) = struct.unpack("<Q", file.read_bytes()[:8])
    assert data["size_bytes"] == file.stat().st_size - 8 - header
    assert sum(tensor["bytes"] for tensor in data["tensors"]) == data["size_bytes"]
    assert sum(entry["bytes"] for entry in data["dtypes"].values()) == data["size_bytes"]
    assert data["bits_per_weight"] == pytest.approx(
        8 * data["size_bytes"] / data["parameters"], 1e-4
    )


def test_several_groups_are_told_apart(qconvert, tmp_path):
    model = write_llama(tmp_path / "model", Llama(192, 1, 512, 4, 2, 300))
    done = qconvert(
        "quantize", model, "-t", "w4a16", "--asymmetric", "-o", tmp_path / "out", "--quiet",
        "--override", "*o_proj.weight=w8a16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = inspect(tmp_path / "out")
    found = {
        (kind["bits"], kind["strategy"], kind["group_size"], kind["symmetric"]): kind["weights"]
        for kind in data["quantized"]
    }
    weights = 192 * 192 + 2 * 96 * 192 + 192 * 192 + 3 * 512 * 192
    assert sum(found.values()) == weights
    assert (4, "group", 128, False) in found  # rows of 512
    assert (4, "group", 64, False) in found  # rows of 192
    assert found[8, "channel", None, False] == 192 * 192
    assert (
        data["format"]
        == json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]["format"]
    )


def test_static_inputs_are_read_from_the_configuration(made, tmp_path):
    path = tmp_path / "static"
    shutil.copytree(made / "tiny-llama-w8a8", path)
    config = json.loads((path / "config.json").read_text())
    (group,) = config["quantization_config"]["config_groups"].values()
    group["input_activations"] |= {"strategy": "tensor", "dynamic": False, "symmetric": False}
    (path / "config.json").write_text(json.dumps(config))
    (found,) = inspect(path)["quantized"]
    assert found["inputs"] == {
        **DYNAMIC_INT,
        "strategy": "tensor",
        "dynamic": False,
        "symmetric": False,
    }


def test_the_command_says_the_same_as_json_and_as_a_table(qconvert, made):
    path = made / "tiny-llama-w4a16"
    assert json.loads(qconvert("inspect", path, "--json").stdout) == inspect(path)
    done = qconvert("inspect", path, "--tensors")
    assert "int4, groups of 128" in done.stdout
    assert "BF16, not quantized" in done.stdout
    assert "self_attn" in done.stdout or "mlp" in done.stdout
    assert "transformers loads it" in done.stderr
    assert "model.layers.0.mlp.up_proj.weight_packed" in done.stdout


def test_one_file_of_a_directory_is_told_like_the_directory(made):
    file = made / "tiny-llama-w8a8" / "model.safetensors"
    data = inspect(file)
    assert data["kind"] == "quantized"
    assert len(data["quantized"][0]["layers"]) == LAYERS


@pytest.mark.parametrize("scheme", ["w8a8", "w4a16", "nvfp4a16"])
def test_quantizing_it_again_says_that_what_is_lost_stays_lost(qconvert, made, tmp_path, scheme):
    path = made / f"tiny-llama-{scheme}"
    for type_, out in (("q8_0", "x.gguf"), ("w8a16", "x")):
        done = qconvert("quantize", path, "-t", type_, "-o", tmp_path / out)
        assert done.returncode == 0, done.stderr
        assert "the source is quantized already (" in done.stderr
        assert "what it lost stays lost" in done.stderr


def test_fp8_with_a_scale_for_each_block_is_a_source_too(qconvert, made, tmp_path):
    (found,) = inspect(made / "fp8-block")["quantized"]
    assert (found["strategy"], found["block"]) == ("block", [128, 128])
    done = qconvert("quantize", made / "fp8-block", "-t", "bf16", "-o", tmp_path / "x.gguf")
    assert done.returncode == 0, done.stderr


def test_another_method_is_shown_as_far_as_it_is_known(qconvert, made, tmp_path):
    path = tmp_path / "hqq"
    shutil.copytree(made / "tiny-llama-w4a16", path)
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq", "bits": 4}
    (path / "config.json").write_text(json.dumps(config))
    data = inspect(path)
    assert (data["method"], data["quantized"], data["parameters"]) == ("hqq", [], None)
    assert "not known" in data["problems"][0]
    assert qconvert("inspect", path).returncode == 0


@pytest.mark.parametrize(
    "change",
    [
        {"config_groups": None},
        {"config_groups": []},
        {"config_groups": {"group_0": 3}},
        {"config_groups": {"group_0": {"weights": {"num_bits": "x", "group_size": []}}}},
        {"config_groups": {"group_0": {"weights": {}, "input_activations": {"strategy": {}}}}},
        {"format": None, "ignore": 3},
    ],
)
def test_a_configuration_that_says_nonsense_is_passed_over(made, tmp_path, change):
    path = tmp_path / "odd"
    shutil.copytree(made / "tiny-llama-w4a16", path)
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] |= change
    (path / "config.json").write_text(json.dumps(config))
    assert inspect(path)["quantized"][0]["bits"] == 4


def test_a_file_of_tensors_alone_is_listed(qconvert, made, tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(made / "tiny-llama-w8a8" / "model.safetensors", path)
    data = json.loads(qconvert("inspect", path, "--json").stdout)
    assert data["kind"] == "tensors"
    assert data["dtypes"]["I8"]["tensors"] == LAYERS
    assert data["metadata"]["format"] == "pt"
    assert "without a config.json" in qconvert("inspect", path).stdout


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_an_adapter_beside_the_codes_is_not_passed_over(
    name: str, qconvert, made: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(next(made.glob("*w8a8")), tmp_path / "m")
    assert qconvert("inspect", folder / name).returncode == 0
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    commands = {"inspect": (), "quantize": ("-t", "q8_0", "-o", tmp_path / "out.gguf")}
    commands["export"] = ("-o", tmp_path / "out")
    for command, options in commands.items():
        done = qconvert(command, folder / name, *options)
        assert done.returncode == 1
        assert "holds a PEFT adapter" in done.stderr
        assert "remove adapter_config.json" in done.stderr
