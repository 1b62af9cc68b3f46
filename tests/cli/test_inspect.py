"""`qconvert inspect`: what it tells, as text and as JSON, and that it reads headers only."""

import json
import resource
import shutil
from math import prod

import pytest
from checkpoints import TINY, Llama, write_llama
from typer.testing import CliRunner

from qconvert.cli.app import Session, app
from qconvert.plan.gguf.file_types import FILE_TYPES
from qconvert.plan.safetensors.schemes import DIRECTORIES


@pytest.fixture(scope="module")
def data(qconvert, model) -> dict:
    done = qconvert("inspect", model, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_json_has_the_promised_keys(data):
    assert data["architecture"] == "llama"
    weights = sum(prod(shape) for shape in TINY.shapes.values())
    assert data["parameters"] == weights
    assert data["size_bytes"] == 2 * weights
    assert {tensor["name"]: tuple(tensor["shape"]) for tensor in data["tensors"]} == TINY.shapes
    assert all(tensor["dtype"] == "BF16" for tensor in data["tensors"])
    assert sum(tensor["bytes"] for tensor in data["tensors"]) == 2 * weights
    for kind in data["file_types"]:
        assert set(kind) == {"name", "bytes", "bits_per_weight", "fallbacks"}


def test_every_file_type_is_listed_or_its_absence_explained(data):
    listed = {kind["name"] for kind in data["file_types"]}
    missing = {kind.name for kind in FILE_TYPES.values()} - listed
    for name in missing:
        assert any(problem.startswith(f"{name}:") for problem in data["problems"])


@pytest.mark.parametrize("kind", ["q4_k_m", "q8_0", "bf16", "tq1_0"])
def test_the_bytes_told_are_the_bytes_written(qconvert, model, data, tmp_path, kind):
    out = tmp_path / "x.gguf"
    assert qconvert("quantize", model, "-t", kind, "-o", out).returncode == 0
    told = next(entry for entry in data["file_types"] if entry["name"] == kind)
    assert out.stat().st_size == told["bytes"]


def test_one_type_shows_its_fallbacks(qconvert, tmp_path):
    narrow = write_llama(tmp_path / "narrow", Llama(192, 2, 512, 4, 2, 300))
    done = qconvert("inspect", narrow, "--type", "Q4_K_M")
    assert "q4_k_m" in done.stdout
    assert "q5_k_m" not in done.stdout
    assert "row of 192 is not a multiple of 256" in done.stdout


def test_a_gguf_file_shows_its_metadata_and_sums(qconvert, model, tmp_path):
    out = tmp_path / "x.gguf"
    qconvert("quantize", model, "-t", "q4_k_m", "-o", out)
    done = qconvert("inspect", out, "--tensors")
    assert "general.architecture = llama" in done.stdout
    assert "blk.0.attn_q.weight" in done.stdout
    data = json.loads(qconvert("inspect", out, "--json").stdout)
    assert data["dtypes"]["Q4_K"]["tensors"] > 0
    assert sum(entry["bytes"] for entry in data["dtypes"].values()) == data["size_bytes"]
    assert data["metadata"]["qconvert.file_type"] == "q4_k_m"
    assert data["metadata"]["qconvert.source"] == "tiny-llama"


def test_an_unknown_family_is_still_shown(qconvert, model, tmp_path):
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["FooModel"]}))
    done = qconvert("inspect", tmp_path)
    assert done.returncode == 0
    assert "FooModel" in done.stdout
    assert "LlamaForCausalLM" in done.stderr


def test_700_tensors_in_shards_take_well_under_a_second(qconvert, tmp_path):
    shape = Llama(256, 77, 512, 4, 2, 500)
    assert len(shape.shapes) > 690
    large = write_llama(tmp_path / "large", shape, sparse=True, shard=10_000_000)
    assert len(list(large.glob("*.safetensors"))) > 5
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert qconvert("inspect", large, "--json").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 2.0  # 0.6 s on a quiet machine; the rest is for a busy one


@pytest.mark.parametrize("source", ["directory", "file"])
def test_each_type_and_scheme_can_be_asked_for_alone(qconvert, model, tmp_path, source):
    if source == "file":
        assert qconvert("quantize", model, "-t", "q8_0", "-o", tmp_path / "x.gguf").returncode == 0
        model = tmp_path / "x.gguf"
    names = ("q4_k_m", *(name for name in DIRECTORIES if name != "nvfp4a4"))  # needs a sample
    types = [word for name in names for word in ("-t", name)]
    planned = qconvert("quantize", model, *types, "-o", f"{tmp_path}/out/", "--dry-run", "--json")
    sizes = {one["file_type"]: one["bytes"] for one in json.loads(planned.stdout)["outputs"]}
    for name in names:
        done = CliRunner().invoke(
            app, ["inspect", str(model), "-t", name.upper(), "--json"], obj=Session()
        )
        assert done.exit_code == 0, done.output
        (one,) = json.loads(done.stdout)["file_types"]
        assert one["name"] == name
        assert one["bytes"] == sizes[name]


def test_a_scheme_shows_what_is_to_be_known_of_it(qconvert, model):
    done = qconvert("inspect", model, "-t", "w3a16", "--tensors")
    assert "model.layers.0.mlp.down_proj.weight" in done.stdout
    assert "vLLM runs packed integers of 4 and 8 bits, not of 3" in done.stdout


def test_a_type_that_is_not_known_is_wrong_usage(qconvert, model):
    done = qconvert("inspect", model, "-t", "w4a17")
    assert done.returncode == 2
    assert "w4a16" in done.stderr


def test_a_tokenizer_that_gguf_does_not_know_keeps_no_scheme_from_being_planned(
    qconvert, model, tmp_path
):
    shutil.copytree(model, tmp_path / "model")
    tokenizer = tmp_path / "model" / "tokenizer.json"
    settings = json.loads(tokenizer.read_text())
    settings["pre_tokenizer"] = {"type": "Digits", "individual_digits": True}
    tokenizer.write_text(json.dumps(settings))
    data = json.loads(qconvert("inspect", tmp_path / "model", "-t", "w4a16", "--json").stdout)
    assert [one["name"] for one in data["file_types"]] == ["w4a16"]
    data = json.loads(qconvert("inspect", tmp_path / "model", "--json").stdout)
    assert not data["file_types"]
    assert len([problem for problem in data["problems"] if "okenizer" in problem]) == 1
