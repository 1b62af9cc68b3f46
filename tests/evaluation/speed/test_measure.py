"""Speed: that the figures are figures of this file. How large they are is the machine's matter."""

import subprocess
import sys
from pathlib import Path

import pytest
from common import save_model
from writing_models import write_gguf

from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.evaluation.speed.measure import (
    Figure,
    Speed,
    describe_speed,
    measure_speed,
    summarize,
)

FAST = {"threads": 1, "prompt_tokens": 32, "generated": 8}


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wide")
    save_model("llama", folder / "model", wide=True, intermediate_size=2048)
    return {
        "model": folder / "model",
        "f32": write_gguf(folder / "model", folder / "f32.gguf", "f32"),
        "q4_k_m": write_gguf(folder / "model", folder / "q4.gguf", "q4_k_m"),
    }


@pytest.fixture(scope="module")
def speeds(wide) -> dict[str, Speed]:
    return {name: measure_speed(path, **FAST) for name, path in wide.items()}


def figures(speed: Speed) -> list[Figure]:
    return [value for value in vars(speed).values() if isinstance(value, Figure)]


def test_figures_are_positive_and_their_spread_holds_the_median(speeds):
    for speed in speeds.values():
        assert len(figures(speed)) == 4
        assert all(0 < one.min <= one.median <= one.max for one in figures(speed))


def test_each_file_runs_in_its_own_runtime_as_it_was_asked(speeds):
    assert {name: speed.runtime for name, speed in speeds.items()} == {
        "model": "transformers",
        "f32": "llama.cpp",
        "q4_k_m": "llama.cpp",
    }
    for speed in speeds.values():
        assert (speed.threads, speed.repetitions) == (1, 3)
        assert (speed.prompt_tokens, speed.generated_tokens) == (32, 8)


def test_milliseconds_are_the_inverse_of_speed(speeds):
    for speed in speeds.values():
        per_second, each = speed.generated_per_second, speed.milliseconds_per_token
        assert each.median == pytest.approx(1000 / per_second.median)
        assert each.min == pytest.approx(1000 / per_second.max)
        assert each.max == pytest.approx(1000 / per_second.min)


def test_memory_grows_with_the_file(speeds, wide):
    def taken(name: str) -> int:
        return speeds[name].peak_bytes - speeds[name].runtime_bytes

    larger = wide["f32"].stat().st_size - wide["q4_k_m"].stat().st_size
    assert larger > 20e6
    assert taken("f32") - taken("q4_k_m") > larger / 2


def test_memory_is_not_that_of_the_process_that_asks():
    hoard = bytearray(b"x") * (600 << 20)
    program = "from qconvert.evaluation.speed.worker import peak_bytes; print(peak_bytes())"
    peak = int(subprocess.check_output([sys.executable, "-c", program]))
    assert peak < len(hoard)


def test_seconds_become_figures():
    found = {
        "prompt": 100,
        "generated": 10,
        "load_seconds": [3.0, 1.0, 2.0],
        "prompt_seconds": [1.0, 2.0, 4.0],
        "generated_seconds": [0.5, 1.0, 2.0],
        "peak_bytes": 7,
        "runtime_bytes": 5,
    }
    speed = summarize(Path("x.gguf"), "llama.cpp", 4, found)
    assert speed.load_seconds == Figure(2.0, 1.0, 3.0)
    assert speed.prompt_per_second == Figure(50.0, 25.0, 100.0)
    assert speed.generated_per_second == Figure(10.0, 5.0, 20.0)
    assert speed.milliseconds_per_token == Figure(100.0, 50.0, 200.0)
    assert describe_speed(speed)["prompt_per_second"] == {"median": 50.0, "min": 25.0, "max": 100.0}


def test_a_short_context_shortens_what_is_measured_and_steps_are_told(tmp_path):
    save_model("gpt2", tmp_path / "gpt2")
    path = write_gguf(tmp_path / "gpt2", tmp_path / "gpt2.gguf")
    steps: list[str] = []
    speed = measure_speed(path, threads=1, generated=100, repetitions=1, heard=steps.append)
    assert (speed.prompt_tokens, speed.generated_tokens) == (96, 96)
    assert steps == ["load 1/1", "warm-up", "prompt 1/1", "generate 1/1"]


def test_what_cannot_write_or_load_is_an_error(tmp_path):
    save_model("bert", tmp_path / "bert")
    path = write_gguf(tmp_path / "bert", tmp_path / "bert.gguf")
    with pytest.raises(UnsupportedError, match="writes no text"):
        measure_speed(path, **FAST)
    (tmp_path / "no.gguf").write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(CheckpointError, match=r"cannot load .*no\.gguf"):
        measure_speed(tmp_path / "no.gguf", **FAST)
