"""Several outputs, calibrations and recipes from one command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from common import save_model
from imatrix_files import dat_bytes, dat_entry, write_imatrix
from safetensors import safe_open
from safetensors.numpy import load_file
from writing_models import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny", tied=True, wide=True)


@pytest.fixture(scope="module")
def calibration(model, tmp_path_factory) -> Path:
    """What the model sees of random tokens."""
    from common import VOCABULARY

    from qconvert.calibration.capture import capture
    from qconvert.checkpoint import open_checkpoint
    from qconvert.machine.watcher import Silent
    from qconvert.text.types import Sample

    tokens = np.random.default_rng(7).integers(0, VOCABULARY, (16, 32)).astype(np.int32)
    path = tmp_path_factory.mktemp("calibration") / "tiny.calib.safetensors"
    checkpoint = open_checkpoint(str(model))
    capture(checkpoint, Sample(tokens, "random tokens", 7), path, watcher=Silent(), threads=2)
    return path


def test_several_outputs_go_into_a_folder_under_their_own_names(
    qconvert, model, calibration, tmp_path
):
    done = qconvert(
        *["quantize", model, "-c", calibration, "-t", "q4_k_m", "-t", "w8a8", "-t", "iq2_xs"],
        *["-o", f"{tmp_path}/out/", "--json"],
    )
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout)["outputs"]
    names = ["tiny-Q4_K_M.gguf", "tiny-w8a8", "tiny-IQ2_XS.gguf"]
    assert [Path(one["path"]).name for one in outputs] == names
    for one in outputs:
        assert one["bytes"] == sum(Path(path).stat().st_size for path in one["paths"])
        seen = qconvert("inspect", one["path"], "--json")
        assert seen.returncode == 0, seen.stderr
        assert json.loads(seen.stdout)["parameters"] > 0
    with safe_open(tmp_path / "out/tiny-w8a8/model.safetensors", "np") as file:
        assert file.metadata()["qconvert.calibration"] == "tiny.calib.safetensors"


def test_several_outputs_are_planned_without_a_folder(qconvert, model, tmp_path):
    done = qconvert(
        *["quantize", model, "-t", "w4a16", "-t", "q8_0", "-o", tmp_path / "out"],
        *["--dry-run", "--json"],
    )
    outputs = json.loads(done.stdout)["outputs"]
    assert [one["file_type"] for one in outputs] == ["w4a16", "q8_0"]
    assert all(one["plan"] for one in outputs)
    assert not list(tmp_path.iterdir())


def test_a_gguf_file_can_go_into_a_folder_under_its_own_name(qconvert, model, tmp_path):
    done = qconvert("quantize", model, "-t", "q8_0", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-Q8_0.gguf"]


def test_a_scheme_alone_makes_the_directory_that_is_named(qconvert, model, tmp_path):
    done = qconvert("quantize", model, "-t", "w8a16", "-o", f"{tmp_path}/served/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(tmp_path / "served")
    config = json.loads((tmp_path / "served/config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"


def test_a_saved_recipe_makes_the_same_bytes(qconvert, model, calibration, tmp_path):
    arguments = ["-c", calibration, "-t", "w8a8", "--activations", "static", "-t", "q5_k_m"]
    arguments += ["--override", "blk.0.attn_q.weight=q8_0", "--pure"]
    recipe = tmp_path / "recipe.yaml"
    first = qconvert(
        *["quantize", model, *arguments, "-o", tmp_path / "first", "--save-recipe", recipe]
    )
    assert first.returncode == 0, first.stderr
    assert "calibration: " in recipe.read_text()
    second = qconvert("quantize", model, "--recipe", recipe, "-o", tmp_path / "second")
    assert second.returncode == 0, second.stderr
    made = {
        folder: {
            str(path.relative_to(tmp_path / folder)): path.read_bytes()
            for path in (tmp_path / folder).rglob("*")
            if path.is_file()
        }
        for folder in ("first", "second")
    }
    assert len(made["first"]) > 3
    assert made["first"] == made["second"]


def test_the_command_line_replaces_what_the_recipe_says(qconvert, model, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("type: w4a16\ngroup_size: 32\n")
    done = qconvert(
        *["quantize", model, "--recipe", recipe, "--group-size", "64", "--dry-run", "--json"]
    )
    kinds = json.loads(done.stdout)["outputs"][0]["tensors"]
    assert any("64" in kind for kind in kinds), kinds
    assert not any("32" in kind.replace("F32", "") for kind in kinds), kinds


def test_a_saved_recipe_is_not_written_over_another(qconvert, model, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("type: q8_0\n# mine\n")
    done = qconvert(
        *["quantize", model, "-t", "q4_0", "-o", tmp_path / "x.gguf", "--save-recipe", recipe]
    )
    assert done.returncode == 2
    assert recipe.read_text() == "type: q8_0\n# mine\n"
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["-t", "w8a8", "--activations", "static"], 1, "qconvert calibrate"),
        (["-t", "w8a8", "--smooth", "auto"], 1, "qconvert calibrate"),
        (["-t", "iq2_xxs"], 1, "qconvert calibrate"),
        (["-t", "q4_k_m", "--smooth", "auto"], 2, "w8a8"),
        (["-t", "w8a8", "--smooth", "2"], 2, "0 to 1"),
        (["-t", "w8a8", "--smooth", "nan"], 2, "0 to 1"),
        (["-t", "w4a16", "--group-size", "48"], 2, "128"),
        (["-t", "w4a17"], 2, "w4a16"),
        (["-t", "w8a8", "--activations", "lazy"], 2, "static"),
        (["-t", "fp8", "--strategy", "row"], 2, "channel"),
        (["-t", "w4a16", "--weight-range", "max"], 2, "minmax"),
        (["-t", "w8a8", "--percentile", "20"], 2, "99.9"),
        (["-t", "q8_0", "-c", "nowhere.safetensors"], 1, "nowhere.safetensors"),
        (["--recipe", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["-t", "w4a16", "-o", "x.gguf"], 2, "directory"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(qconvert, model, tmp_path, arguments, code, word):
    place = [] if "-o" in arguments else ["-o", str(tmp_path / "out")]
    done = qconvert("quantize", model, *arguments, *place)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_calibration_of_another_model_is_refused_with_both_names(qconvert, calibration, tmp_path):
    other = tmp_path / "other"
    save_model("qwen3", other, tied=True, wide=True)
    for kind in ("q4_k_m", "w4a16"):
        done = qconvert("quantize", other, "-c", calibration, "-t", kind, "-o", tmp_path / "out")
        assert done.returncode == 1
        assert "tiny" in done.stderr
        assert "other" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("kind", ["q4_k_m", "w4a16"])
def test_an_importance_matrix_of_another_model_is_refused(qconvert, model, tmp_path, kind):
    foreign = "blk.0.attn_kv_b.weight"
    matrix = write_imatrix(tmp_path / "im.gguf", {foreign: np.ones((1, 64), "f4")}, {foreign: [1]})
    done = qconvert("quantize", model, "-c", matrix, "-t", kind, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "belongs to another model" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["im.gguf"]


def test_both_forms_of_an_importance_matrix_make_the_same_directory(qconvert, tmp_path):
    """The older one does not say how many experts a weight has."""
    save_model("qwen3_moe", tmp_path / "model", wide=True, num_hidden_layers=1)
    name, draw = "blk.0.ffn_down_exps.weight", np.random.default_rng(2)
    means = draw.uniform(0.1, 9, (5, 256)).astype(np.float32)
    write_imatrix(tmp_path / "im.gguf", {name: means}, {name: [1] * 5})
    (tmp_path / "im.dat").write_bytes(dat_bytes([dat_entry(name, means, 1)]))
    made = {}
    for form in ("gguf", "dat", "none"):
        out = tmp_path / form
        given = [] if form == "none" else ["-c", tmp_path / f"im.{form}"]
        done = qconvert("quantize", tmp_path / "model", *given, "-t", "w4a16", "-o", out)
        assert done.returncode == 0, done.stderr
        assert ("the importance matrix lacks" in done.stderr) == (form != "none")
        made[form] = load_file(out / "model.safetensors")
    changed = [key for key, value in made["gguf"].items() if (value != made["none"][key]).any()]
    assert changed
    assert all("down_proj" in key for key in changed)
    assert all((value == made["dat"][key]).all() for key, value in made["gguf"].items())


def test_two_outputs_need_two_places(qconvert, model, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "outputs:\n  - {type: q8_0, output: a.gguf}\n  - {type: q4_0, output: a.gguf}\n"
    )
    done = qconvert("quantize", model, "--recipe", recipe)
    assert done.returncode == 2
    assert "both" in done.stderr


WRONG_STATISTICS = {
    "none.gguf": ("no such file", "check its name"),
    "none.safetensors": ("no such file", "check its name"),
    ".": ("is a directory", "name a file"),
    "text.json": ("is no calibration and no importance matrix", "qconvert calibrate"),
}


@pytest.mark.parametrize("option", ["-c", "--importance"])
@pytest.mark.parametrize("name", WRONG_STATISTICS)
def test_what_is_no_calibration_is_not_called_damaged(qconvert, model, tmp_path, name, option):
    (tmp_path / "text.json").write_text('{"a": 1, "b": 2}')
    done = qconvert("quantize", model, "-t", "q4_k_m", option, tmp_path / name)
    assert done.returncode == 1
    said, hint = WRONG_STATISTICS[name]
    assert said in done.stderr
    assert hint in done.stderr.partition("hint: ")[2]
    assert "damaged" not in done.stderr
