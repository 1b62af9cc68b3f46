"""The command line as a whole: streams, exit codes, errors, and how fast it answers."""

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import qconvert as package


def imported_by(code: str) -> set[str]:
    """The top-level modules that some code imports."""
    script = f"{code}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_version(cold_qconvert):
    done = cold_qconvert("--version")
    assert done.returncode == 0
    assert done.stdout == f"qconvert {package.__version__}\n"
    assert done.stderr == ""


@pytest.mark.parametrize("command", [[], ["inspect"], ["quantize"], ["export"]])
def test_help_is_shown_without_heavy_imports(qconvert, command):
    done = qconvert(*command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert done.stderr == ""


def test_the_command_line_itself_imports_nothing_heavy():
    heavy = {"torch", "transformers", "numba", "numpy", "gguf", "huggingface_hub", "matplotlib"}
    assert not heavy & imported_by("import qconvert.cli.app")


def test_help_answers_as_fast_as_python_can(cold_qconvert):
    """Within 0.3 s where Python itself starts in 20 ms; slower machines get their share."""

    def median(run) -> float:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    python = median(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))
    assert median(lambda: cold_qconvert("--help")) < 0.3 * max(python / 0.02, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["quantize"],
        ["quantize", "model"],
        ["quantise", "model"],
        ["inspect", "--no-such-option", "model"],
        ["quantize", "model", "-t", "q8_0", "--threads", "0"],
        ["quantize", "model", "-t", "q8_0", "-o", "-"],
        ["quantize", "model", "-t", "q8_0", "--split-max-size", "many"],
        ["quantize", "model", "-t", "q8_0", "--override", "q4_0"],
    ],
)
def test_wrong_usage_exits_with_2_and_says_nothing_on_standard_output(qconvert, arguments):
    done = qconvert(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "rror" in done.stderr
    assert "Traceback" not in done.stderr


def test_standard_output_is_refused_with_the_reason(qconvert, model):
    done = qconvert("quantize", model, "-t", "q8_0", "-o", "-")
    assert "atomic rename" in done.stderr


def bad_inputs(folder: Path, model: Path) -> dict[str, tuple[Path, str]]:
    """What is wrong -> what to open, and a word that the error must hold."""
    empty = folder / "empty"
    empty.mkdir()
    text = folder / "text.gguf"
    text.write_text("this is no GGUF file at all")
    nameless = folder / "nameless"
    nameless.mkdir()
    (nameless / "config.json").write_text('{"hidden_size": 8}')
    for file in model.glob("*.safetensors*"):
        (nameless / file.name).write_bytes(file.read_bytes())
    strange = folder / "strange"
    strange.mkdir()
    (strange / "config.json").write_text('{"architectures": ["FooForCausalLM"]}')
    for file in model.glob("*.safetensors*"):
        (strange / file.name).write_bytes(file.read_bytes())
    short = folder / "short"
    short.mkdir()
    (short / "config.json").write_bytes((model / "config.json").read_bytes())
    for file in model.glob("*.safetensors*"):
        (short / file.name).write_bytes(
            file.read_bytes()[:-10] if "index" not in file.name else file.read_bytes()
        )
    return {
        "no such path": (folder / "none", "no such"),
        "an empty directory": (empty, "empty"),
        "no GGUF file": (text, "text.gguf"),
        "no architectures": (nameless, "architectures"),
        "an unknown family": (strange, "FooForCausalLM"),
        "a truncated shard": (short, "safetensors"),
    }


WRONG = (
    "no such path",
    "an empty directory",
    "no GGUF file",
    "no architectures",
    "an unknown family",
    "a truncated shard",
)


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_gets_one_line_and_a_hint_and_writes_nothing(qconvert, model, tmp_path, wrong):
    path, word = bad_inputs(tmp_path, model)[wrong]
    before = sorted(tmp_path.rglob("*"))
    done = qconvert("quantize", path, "-t", "q8_0", "-o", tmp_path / "out.gguf")
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"], done.stderr
    assert word in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_wrong_type_gets_the_nearest_names(qconvert, model):
    done = qconvert("quantize", model, "-t", "q4_m")
    assert done.returncode == 2
    assert "q4_k_m" in done.stderr


def test_traceback_shows_where_an_error_comes_from(qconvert, tmp_path):
    done = qconvert("--traceback", "inspect", tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert re.search(r"^error: ", done.stderr, re.MULTILINE)


def test_a_reader_that_goes_away_is_no_traceback(model):
    program = str(Path(sys.executable).with_name("qconvert"))
    done = subprocess.run(
        f"{program} inspect {model} --json | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


def test_completion_knows_the_file_types(qconvert):
    done = qconvert(
        _QCONVERT_COMPLETE="complete_bash", COMP_WORDS="qconvert quantize x -t q4_k", COMP_CWORD="4"
    )
    assert "q4_k_m" in done.stdout
