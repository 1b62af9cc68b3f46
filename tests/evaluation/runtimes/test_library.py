"""The llama.cpp in xllamacpp's wheel, against the one that llama-cpp-python has compiled: each in
processes of its own, for a process has room for one of them."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from common import random_tokens
from writing_models import write_gguf, write_model

from qconvert.errors import UsageError
from qconvert.evaluation.runtimes import bindings, library

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from qconvert.evaluation.answers.answer import AnswerSettings, answers
from qconvert.evaluation.runtimes.library import llama_name
from qconvert.evaluation.runtimes.llama import LlamaRuntime
from qconvert.evaluation.runtimes.settings import Settings
from qconvert.evaluation.speed.measure import measure_speed
from qconvert.text.perplexity_windows import make_windows
from qconvert.text.prompts import default_prompts

file, tokens, out = map(Path, sys.argv[1:])
windows = make_windows(np.load(tokens), "random")
np.save(out, np.stack([x.copy() for x in LlamaRuntime(file, Settings(threads=2)).logits(windows)]))
(said,) = answers([file], default_prompts()[:2], AnswerSettings(threads=1, max_tokens=12))
speed = measure_speed(file, threads=1, prompt_tokens=16, generated=4, repetitions=1)
print(json.dumps({
    "name": llama_name(),
    "threads": speed.threads,
    "seconds": speed.load_seconds.median,
    "answers": [one.text for one in (*said.greedy, *said.sampled)],
}))
"""
HIDE = "import sys\nsys.modules[{!r}] = None\n"


def run(folder: Path, hidden: str, file: Path, tokens: np.ndarray) -> tuple[dict, np.ndarray]:
    """What the program prints, and the logits, in a Python that lacks a module."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDE.format(hidden))
    np.save(folder / "tokens.npy", tokens)
    path = [str(folder), *(one for one in sys.path if one)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, file, folder / "tokens.npy", folder / "logits.npy"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), np.load(folder / "logits.npy")


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[tuple[dict, np.ndarray], ...]:
    """Of the wheel, and of llama-cpp-python."""
    for module in ("llama_cpp", "xllamacpp"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    place = tmp_path_factory.mktemp("both")
    write_model(place / "model")
    file = write_gguf(place / "model", place / "model.gguf", "q8_0")
    tokens = np.array(random_tokens(3 * 48, 250), np.int32).reshape(3, 48)
    wheel = run(place / "wheel", "llama_cpp", file, tokens)
    return wheel, run(place / "compiled", "xllamacpp", file, tokens)


def test_llama_cpp_python_is_preferred_and_the_wheel_takes_its_place(both):
    (wheel, _), (compiled, _) = both
    assert wheel["name"].startswith("xllamacpp 20")
    assert compiled["name"].startswith("llama-cpp-python 0.")
    assert library.llama_name() == compiled["name"]


def test_both_predict_the_same(both):
    (_, found), (_, expected) = both
    assert found.shape == expected.shape
    logs = [x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (found, expected)]
    divergence = (np.exp(logs[1]) * (logs[1] - logs[0])).sum(-1)
    # Inputs of products are rounded to 8 bits, in blocks that differ by what was compiled.
    assert 0 <= divergence.mean() < 1e-4
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9999


def test_both_write_the_same_and_are_timed(both):
    (wheel, _), (compiled, _) = both
    assert wheel["answers"] == compiled["answers"]
    assert any(wheel["answers"])
    assert wheel["threads"] == 1
    assert wheel["seconds"] > 0


def test_another_layout_is_refused_before_anything_is_read_out_of_it(monkeypatch):
    pytest.importorskip("xllamacpp")
    program = (
        "from qconvert.evaluation.runtimes import bindings\n"
        "bindings.DEFAULTS['llama_context_default_params']['n_batch'] = 77\n"
        "bindings.load_bindings()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "lays out llama_context_params in a new way" in done.stderr


def test_a_processor_that_the_wheel_is_not_for_is_told_so(monkeypatch):
    pytest.importorskip("xllamacpp")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setattr(library, "runs_wheels", lambda: False)
    assert not library.has_llama()
    with pytest.raises(UsageError, match="AVX2") as caught:
        library.import_llama()
    assert "llama-cpp-python" in caught.value.hint


def test_the_library_is_found_without_importing_the_package():
    pytest.importorskip("xllamacpp")
    assert bindings._library().name.startswith("xllamacpp.")
