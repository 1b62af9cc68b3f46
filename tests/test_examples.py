"""The examples run as they stand, on a tiny model."""

import atexit
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from checkpoints import TINY, write_llama
from speaking_models import PROSE, save_speaking_model
from warm import write_command
from writing_models import write_gguf, write_model

from qconvert.plan.document import options_of, read_document

EXAMPLES = Path(__file__).parent.parent / "examples"
ROOT = EXAMPLES.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the examples and a model."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(EXAMPLES, folder / "examples")
    config = write_llama(folder / "tiny", TINY, tokenizer=True) / "config.json"
    # What the model begins its own sample with.
    config.write_text(json.dumps(json.loads(config.read_text()) | {"bos_token_id": 1}))
    return folder


@functools.cache
def warm_folder() -> str:
    """Where scripts find a `qconvert` that starts at once."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(write_command(Path(folder)))


def run(place: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    programs = os.pathsep.join(
        [warm_folder(), str(Path(sys.executable).parent), os.environ["PATH"]]
    )
    keep = {key: value for key, value in os.environ.items() if key != "CI"}
    return subprocess.run(
        command,
        cwd=place,
        env=keep | {"PATH": programs} | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_example_is_run_below():
    tested = Path(__file__).read_text()
    run = [path for path in EXAMPLES.iterdir() if path.suffix not in (".md", ".png", ".svg")]
    assert not [path.name for path in run if path.name not in tested]  # pages have their own tests


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe-gguf.yaml"])
def test_recipes_run_as_they_say(place, name):
    """What stands in their comments, and again, where it finds all that is up to date."""
    text = (EXAMPLES / name).read_text()
    first = next(line for line in text.splitlines() if "--recipe" in line).lstrip("# ")
    command = first.replace("MODEL", "./tiny").replace("model.gguf", f"{name}.gguf").split()
    for number in range(2):
        done = run(place, *command)
        assert done.returncode == 0, done.stderr
        assert ("up to date" in done.stderr) == bool(number)
    options = options_of(read_document(EXAMPLES / name))
    assert done.stdout.count("bits per weight") == len(options)


def test_what_recipes_leave_to_those_who_calibrate_is_valid(tmp_path):
    lines = (EXAMPLES / "recipe.yaml").read_text().splitlines()
    is_key = re.compile(r" *# \w+: [\w.]+( |$)")
    keys = [line.replace("# ", "", 1) if is_key.match(line) else line for line in lines]
    (tmp_path / "recipe.yaml").write_text("\n".join(keys))
    options = options_of(read_document(tmp_path / "recipe.yaml"))
    assert options[1].smooth == "auto"
    assert (options[1].activations, options[1].activation_range) == ("static", "percentile")
    assert all(one.calibration == tmp_path / "calib.safetensors" for one in options)


def test_the_makefile_makes_only_what_changed(place):
    options = ["MODEL=./tiny", "GGUF=q8_0 q4_k_m", "SAFETENSORS=w8a8"]
    flags = "CALIBRATE_FLAGS=--tokens 64 --window 16 --device cpu"

    def make(*more: str) -> list[str]:
        done = run(place, "make", "-f", "examples/Makefile", *options, flags, *more)
        assert done.returncode == 0, done.stderr
        return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("qconvert")]

    assert make() == ["calibrate", "quantize", "quantize", "quantize"]
    out = place / "out"
    assert (out / "tiny-q4_k_m.gguf").stat().st_size > 0
    assert (out / "tiny-w8a8" / "model.safetensors").stat().st_size > 0
    assert make() == []
    flagged = "QUANTIZE_FLAGS=--keep blk.0.attn_q.weight"
    assert make("GGUF=q8_0", "SAFETENSORS=", flagged) == ["quantize"]
    os.utime(place / "tiny" / "config.json")
    assert make("GGUF=q8_0", "SAFETENSORS=", flagged) == ["calibrate", "quantize"]
    done = run(place, "make", "-f", "examples/Makefile", "report", *options[:1], flags, flagged,
               "GGUF=q8_0", "SAFETENSORS=")  # fmt: skip
    (line,) = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    assert 8.5 < float(line[1]) < 12
    assert line[2] == "out/tiny-q8_0.gguf"


@pytest.mark.slow
def test_the_makefile_follows_a_recipe(place):
    options = ["MODEL=./tiny", "OUT=by-recipe", "CALIBRATE_FLAGS=--tokens 64 --window 16"]
    command = ["make", "-f", "examples/Makefile", "recipe", "plot", *options]
    done = run(place, *command)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (place / "by-recipe" / "recipe").iterdir()}
    assert names == {"tiny-Q4_K_M.gguf", "tiny-w8a8", "tiny-w4a16"}
    assert "<svg" in (place / "by-recipe" / "tiny.svg").read_text()
    assert "qconvert" not in run(place, *command).stdout


CHAIN = ["calibrate", "quantize", "prune", "distill", "calibrate", "quantize", "tune", "evaluate"]


def verbs(printed: str) -> list[str]:
    return re.findall(r"(?<!\S)qconvert (\w+) ", printed)


def test_the_chain_that_makes_a_model_smaller_says_what_it_would_do(place):
    command = ["make", "-n", "-f", "examples/smaller.mk", "MODEL=./tiny"]
    done = run(place, *command)
    assert done.returncode == 2
    assert "say what to leave of the model" in done.stderr
    done = run(place, *command, "PRUNE=--layers 1", "DATA=README.md")
    assert done.returncode == 0, done.stderr
    found = verbs(done.stdout)
    assert sorted(found) == sorted(CHAIN)
    order = [found.index(verb) for verb in ("calibrate", "prune", "distill", "tune", "evaluate")]
    assert order == sorted(order)
    assert verbs(run(place, *command, "PRUNE=--layers 1", "report").stdout)[-1] == "report"


@pytest.mark.slow
def test_the_chain_that_makes_a_model_smaller_runs(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    save_speaking_model(tmp_path / "model", wide=True, num_hidden_layers=3)
    (tmp_path / "data.txt").write_text(PROSE * 12)
    (tmp_path / "text.txt").write_text(PROSE[::-1] * 4)
    command = ["make", "-f", "examples/smaller.mk", "MODEL=./model", "DATA=data.txt"]
    command += ["TEXT=text.txt", "PRUNE=--layers 2 --tokens 64", "EVALUATE=--window 32"]
    command += ["CALIBRATE=--tokens 512 --window 32", "DISTILL=--tokens 512 --window 32"]
    first = run(tmp_path, *command, "TYPE=q4_0", "TUNE=--tokens 256")
    assert first.returncode == 0, first.stderr
    assert sorted(verbs(first.stdout)) == sorted(CHAIN)
    page = (tmp_path / "smaller" / "steps.md").read_text()
    for name in ("model-q4_0.gguf", "pruned", "taught", "taught-q4_0.gguf", "tuned-q4_0.gguf"):
        assert name in page
    assert len(re.findall(r"^\| [a-z-]+ \| \d+ \|$", page, re.MULTILINE)) == 7
    assert not verbs(run(tmp_path, *command, "TYPE=q4_0", "TUNE=--tokens 256").stdout)
    again = run(tmp_path, *command, "TYPE=q4_0", "TUNE=--tokens 512")
    assert verbs(again.stdout) == ["tune", "evaluate"], again.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("jq") is None, reason="the runner of the CI job has jq")
def test_the_ci_job_runs(place, tmp_path):
    job = yaml.safe_load((EXAMPLES / "github-workflow.yml").read_text())["jobs"]["convert"]
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    # As GitHub runs each step, with few tokens for a tiny model; and again.
    for step in 2 * job["steps"]:
        if "run" not in step or step["name"] == "Install":
            continue
        script = step["run"].replace("--tokens 16384", "--tokens 64 --window 16")
        done = run(
            tmp_path, "bash", "-eo", "pipefail", "-c", script,
            MODEL=str(place / "tiny"), DATA="self", CI="true",
        )  # fmt: skip
        assert done.returncode == 0, f"{step['name']}: {done.stdout}{done.stderr}"
    result = json.loads((tmp_path / "result.json").read_text())
    assert [one["file_type"] for one in result["outputs"]] == ["q4_k_m", "w8a8", "w4a16"]
    (uploaded,) = [
        step["with"]["path"] for step in job["steps"] if "upload" in step.get("uses", "")
    ]
    assert all((tmp_path / name).exists() for name in uploaded.split())


@pytest.mark.slow
@pytest.mark.parametrize(("types", "code"), [("q8_0", 0), ("q8_0 q2_k", 1)])
def test_the_ci_gate_refuses_what_moved_too_far(tmp_path, types, code):
    save_speaking_model(tmp_path / "tiny", wide=True, num_hidden_layers=2)
    (tmp_path / "text.txt").write_text(PROSE * 4)
    job = yaml.safe_load((EXAMPLES / "github-gate.yml").read_text())["jobs"]["gate"]
    steps = {step["name"]: step["run"] for step in job["steps"] if "run" in step}
    page = tmp_path / "page.md"
    settings = {"MODEL": "tiny", "DATA": "text.txt", "TYPES": types, "CI": "true"}
    settings |= {"QCONVERT_CACHE": job["env"]["QCONVERT_CACHE"], "GITHUB_STEP_SUMMARY": str(page)}
    quantize, gate = steps["Quantize"], steps["Refuse what has moved too far from the original"]
    gate = gate.replace("32768", "128 --window 32")
    for script, expected in 2 * ((quantize, 0), (gate, code)):
        done = run(tmp_path, "bash", "-eo", "pipefail", "-c", script, **settings)
        assert done.returncode == expected, done.stdout + done.stderr
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert [one["type"] for one in found["files"]] == sorted(types.upper().split())
    assert all(one["passed"] for one in found["gates"]) == (code == 0)
    assert "<testsuites" in (tmp_path / "gates.xml").read_text()
    assert page.read_text().count("**failed**") == 2 * code
    assert any((tmp_path / ".qconvert" / "references").iterdir())


@pytest.mark.parametrize("name", ["github-workflow.yml", "github-gate.yml"])
def test_ci_jobs_install_the_program_from_its_repository(name):
    (job,) = yaml.safe_load((EXAMPLES / name).read_text())["jobs"].values()
    uses = [step.get("uses", "") for step in job["steps"]]
    assert any(one.startswith("actions/checkout") for one in uses)
    (install,) = [step["run"] for step in job["steps"] if step.get("name") == "Install"]
    match = re.fullmatch(r"pip install (\.|'\.\[(?P<extra>\w+)\]')", install)
    assert match is not None
    assert (
        match["extra"] is None or f"\n{match['extra']} = [" in (ROOT / "pyproject.toml").read_text()
    )


def test_the_script_tells_how_it_is_used(place):
    for arguments in ([], ["./tiny"], ["./tiny", "all"]):
        done = run(place, "examples/quantize_all.sh", *arguments)
        assert done.returncode == 2
        assert done.stderr == "usage: examples/quantize_all.sh MODEL FOLDER TYPE...\n"
    done = run(place, "examples/quantize_all.sh", "./none", "all", "q8_0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: './none': no such file")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_demo_runs_again_on_what_it_has(tmp_path, monkeypatch, capfd):
    spec = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
    demo = importlib.util.module_from_spec(spec)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    spec.loader.exec_module(demo)
    monkeypatch.setattr(demo, "TYPES", ("q8_0",))
    model = write_model(tmp_path / "model", wide=True, num_hidden_layers=2)
    source = write_gguf(model, tmp_path / "model.gguf", "q4_1")
    for is_known in (False, True):
        demo.main(tmp_path / "demo", source)
        printed = capfd.readouterr()
        assert "report.html" in printed.out
        for word in ("measuring the speed", "asking"):
            assert (word in printed.err) != is_known
    assert (tmp_path / "demo" / "report" / "report.html").stat().st_size > 10_000


def test_the_script_lists_what_it_made(place):
    for types in (["q8_0", "q4_0", "w8a16"], ["q8_0", "w8a16"]):
        done = run(place, "examples/quantize_all.sh", "./tiny", "all", *types)
        assert done.returncode == 0, done.stderr
        assert [line.split("\t")[0] for line in done.stdout.splitlines()] == types
    done = run(place, "examples/quantize_all.sh", "./tiny", "all", "q8_0", "q4_0", "w8a16")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["q8_0", "q4_0", "w8a16"]
    assert all((place / row[3]).exists() for row in rows)
    assert int(rows[0][1]) == (place / rows[0][3]).stat().st_size
