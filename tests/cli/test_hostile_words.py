"""Nothing that a file, a name or a library says is obeyed by a terminal."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from common import finish_gguf

RED = "\x1b[31m\x9b31m\u202e\r\a"
PROMISED = re.compile(r"[^\n -~\u00a1-\u2fff]")
"""What no line may hold: control characters of any kind, and what turns a line round."""


def config(model: Path, **changes: Any) -> Path:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))
    return model


def gguf_file(path: Path, architecture: str, name: str = "x") -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_tensor("token_embd.weight", np.ones((2, 32), np.float32))
    return finish_gguf(writer, path)


def commands(own: Path, folder: Path) -> dict[str, Callable[[], tuple[Any, ...]]]:
    """Each makes the program speak of something that a stranger wrote."""
    table, recipe = folder / "t.csv", folder / "r.yaml"
    table.write_text(f"{RED.replace(chr(13), '')},b\nx,y\n", encoding="utf-8", newline="")
    recipe.write_text(json.dumps({"type": "q8_0", RED: 1}))
    strange = folder / f"{RED}.gguf"
    strange.write_bytes(b"no")
    return {
        "architecture": lambda: ("inspect", config(own, architectures=[RED])),
        "rope": lambda: ("quantize", config(own, rope_scaling={"rope_type": RED}), "-t", "q8_0"),
        "activation": lambda: ("quantize", config(own, hidden_act=RED), "-t", "q8_0"),
        "file": lambda: ("inspect", gguf_file(folder / "a.gguf", RED)),
        "name": lambda: ("inspect", gguf_file(folder / "n.gguf", "llama", RED), "--json"),
        "shown": lambda: ("inspect", gguf_file(folder / "n.gguf", "llama", RED)),
        "csv": lambda: ("calibrate", own, "--data", table, "-o", folder / "c"),
        "recipe": lambda: ("quantize", own, "--recipe", recipe),
        "path": lambda: ("inspect", strange),
        "missing": lambda: ("inspect", f"./{RED}"),
        "traceback": lambda: ("--traceback", "inspect", strange),
        "long": lambda: ("inspect", config(own, architectures=["x" * 100_000])),
    }


WHAT = ("architecture", "rope", "activation", "file", "name", "shown", "csv", "recipe", "path")


@pytest.mark.parametrize("what", [*WHAT, "missing", "traceback", "long"])
def test_strangers_words_are_spelled_out(qconvert, model, tmp_path, what: str) -> None:
    own = shutil.copytree(model, tmp_path / "own")
    done = qconvert(*commands(own, tmp_path)[what]())
    said = done.stdout + done.stderr
    assert said
    assert not PROMISED.search(said), repr(PROMISED.findall(said))
    assert "fault of qconvert" not in said
    assert max(map(len, said.splitlines())) < 1300
    assert what == "long" or "u202e" in said


def test_logs_and_warnings_of_libraries_are_spelled_out() -> None:
    code = "import logging, warnings; from qconvert.cli import render\n"
    code += "render.clean_foreign_messages(); red = '\\x1b[31m'\n"
    code += "logging.warning('log %s', red); warnings.warn('warning ' + red)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("\\x1b[31m") >= 2
    assert not PROMISED.search(done.stderr)


def test_all_that_is_shown_goes_through_one_place() -> None:
    rooms = Path(__file__).parents[2] / "qconvert" / "cli"
    files = [path for path in rooms.glob("*.py") if path.name != "render.py"]
    bare = [path.name for path in files if re.search(r"(?<![\w.])print\(", path.read_text())]
    assert bare == ["app.py"]  # the version
