"""Conversion end to end: the same bytes always, complete files or none, and work taken up again."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoints import TINY, Llama, write_llama
from gguf import GGUFReader
from warm import Warm, begin_warm

from qconvert.checkpoint import open_checkpoint
from qconvert.containers.partial import partial_path
from qconvert.errors import OutputError, WeightError
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.run.outputs import write_outputs

QCONVERT = str(Path(sys.executable).with_name("qconvert"))
MEDIUM = Llama(512, 8, 1536, 8, 2, 8000)


class Quiet:
    """Listens and keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def begin(self, total: int, done: int) -> None: ...

    def advance(self, weights: int, tensor: str) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)


def quantize(model: Path, out: Path, kind: str = "q4_k_m", threads: int = 2, split=None, **recipe):
    asked = Recipe(kind, output=out, split_max_size=split, **recipe)
    plan = make_plan(open_model(open_checkpoint(str(model))), asked)
    watcher = Quiet()
    return write_outputs([plan], threads, watcher)[0], plan, watcher


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_llama(tmp_path_factory.mktemp("model"), TINY, shard=400_000)


@pytest.fixture(scope="module")
def medium(tmp_path_factory) -> Path:
    return write_llama(tmp_path_factory.mktemp("medium"), MEDIUM)


@pytest.mark.parametrize("kind", ["q4_k_m", "iq4_xs", "q8_0", "bf16"])
def test_the_bytes_do_not_depend_on_the_threads(model, tmp_path, kind):
    for threads in (1, 2, 7):
        quantize(model, tmp_path / f"{threads}.gguf", kind, threads)
    expected = (tmp_path / "1.gguf").read_bytes()
    assert (tmp_path / "2.gguf").read_bytes() == expected
    assert (tmp_path / "7.gguf").read_bytes() == expected


def test_the_plan_knows_the_exact_size(model, tmp_path):
    for kind in ("q2_k", "q5_k_s", "f16"):
        result, plan, _ = quantize(model, tmp_path / f"{kind}.gguf", kind)
        assert (tmp_path / f"{kind}.gguf").stat().st_size == plan.nbytes == result.nbytes


def test_sharding_of_the_source_changes_nothing(model, tmp_path):
    single = write_llama(tmp_path / model.name, TINY)
    quantize(model, tmp_path / "many.gguf")
    quantize(single, tmp_path / "one.gguf")
    assert (tmp_path / "many.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()


def test_shards_hold_the_same_tensors(model, tmp_path):
    quantize(model, tmp_path / "whole.gguf")
    result, _, _ = quantize(model, tmp_path / "cut.gguf", split=300_000)
    assert len(result.paths) > 2
    cut = {t.name: t.data for path in result.paths for t in GGUFReader(path).tensors}
    for tensor in GGUFReader(tmp_path / "whole.gguf").tensors:
        np.testing.assert_array_equal(cut.pop(tensor.name), tensor.data)
    assert not cut


def test_shards_can_be_the_source(model, tmp_path):
    result, _, _ = quantize(model, tmp_path / "cut.gguf", "f32", split=600_000)
    quantize(result.paths[0], tmp_path / "again.gguf", "q8_0")
    quantize(model, tmp_path / "direct.gguf", "q8_0")
    again, direct = (GGUFReader(tmp_path / f"{name}.gguf") for name in ("again", "direct"))
    for a, b in zip(again.tensors, direct.tensors, strict=True):
        assert a.name == b.name
        np.testing.assert_array_equal(a.data, b.data)


def test_blocks_of_the_same_type_are_moved_and_requantizing_is_said(model, tmp_path):
    quantize(model, tmp_path / "a.gguf", "q4_k_m")
    _, plan, _ = quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_k_m")
    assert any("quantized already" in notice for notice in plan.notices)
    a, b = (GGUFReader(tmp_path / f"{name}.gguf") for name in "ab")
    for first, second in zip(a.tensors, b.tensors, strict=True):
        np.testing.assert_array_equal(first.data, second.data)


def poison(model: Path, folder: Path, bits: int) -> Path:
    """A copy with one wrong weight in the first tensor of the last shard."""
    copy = Path(shutil.copytree(model, folder / "poisoned"))
    shard = sorted(copy.glob("*.safetensors"))[-1]
    with shard.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(8 + length + 2 * 77)
        file.write(bits.to_bytes(2, "little"))
    return copy


@pytest.mark.parametrize(("bits", "what"), [(0x7FC0, "NaN"), (0xFF80, "-Inf")])
@pytest.mark.parametrize("kind", ["q4_k_m", "bf16"])
def test_weights_that_are_no_numbers_are_refused_by_name(model, tmp_path, bits, what, kind):
    out = tmp_path / "x.gguf"
    out.write_bytes(b"previous")
    with pytest.raises(WeightError, match=r"token_embd\.weight"):
        quantize(poison(model, tmp_path, bits), out, kind)
    assert out.read_bytes() == b"previous", what
    assert sorted(path.name for path in tmp_path.iterdir()) == ["poisoned", "x.gguf"]


def test_allowed_nan_is_counted_and_leaves_the_other_weights_as_they_are(model, tmp_path):
    out = tmp_path / "x.gguf"
    poisoned = poison(model, tmp_path, 0x7FC0)
    _, _, watcher = quantize(poisoned, out, "q8_0", pure=True, allow_nan=True)
    assert watcher.notes[-1] == "token_embd.weight: 1 weights are NaN or infinite"
    quantize(model, tmp_path / "y.gguf", "q8_0", pure=True)
    spoiled, clean = (
        next(t.data for t in GGUFReader(tmp_path / name).tensors if t.name == "token_embd.weight")
        for name in ("x.gguf", "y.gguf")
    )
    assert np.argwhere((spoiled != clean).any(axis=1)).tolist() == [[0]]


def test_too_little_room_is_said_before_the_work(model, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OutputError, match="are free"):
        quantize(model, tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())


def command(model: Path, out: Path, kind: str = "q6_k", threads: int = 1) -> list[str]:
    names = [QCONVERT, "quantize", str(model), "-t", kind, "-o", str(out)]
    return [*names, "--threads", str(threads), "--no-vocabulary", "--json"]


def limited(size: int):
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def test_a_disk_that_fills_up_loses_nothing(medium, tmp_path):
    quantize(medium, tmp_path / "whole.gguf", "q6_k")
    expected = (tmp_path / "whole.gguf").read_bytes()
    out = tmp_path / "x.gguf"
    out.write_bytes(b"previous")
    full = subprocess.run(
        [*command(medium, out), "--force"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited(len(expected) // 2),
    )
    assert full.returncode == 1
    assert "error: cannot write" in full.stderr
    assert "Traceback" not in full.stderr
    assert out.read_bytes() == b"previous"
    again = [*command(medium, out), "--force"]
    done = subprocess.run(again, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["outputs"][0]["resumed_tensors"] > 0
    assert out.read_bytes() == expected


def start(model: Path, out: Path) -> Warm:
    """What it says goes into a file beside the model."""
    said = model.with_name("said")
    said.unlink(missing_ok=True)
    return begin_warm(command(model, out)[1:], os.environ, Path(os.devnull), said)


def wait_for_bytes(path: Path, size: int, process: Warm) -> None:
    """Until the partial file has grown to that size."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.stat().st_size >= size:
            return
        time.sleep(0.001)


def test_ctrl_c_is_answered_at_once_and_the_work_goes_on(medium, tmp_path):
    out = tmp_path / "x.gguf"
    for _ in range(5):  # a busy machine may let it come to its end before the signal
        process = start(medium, out)
        wait_for_bytes(partial_path(out), 3_600_000, process)
        process.send_signal(signal.SIGINT)
        if process.wait(timeout=10):
            break
        out.unlink()
    errors = medium.with_name("said").read_text()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "goes on where this one stopped" in errors
    assert not out.exists()
    done = subprocess.run(command(medium, out), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["outputs"][0]["resumed_tensors"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


@pytest.mark.slow
def test_thirty_kills_at_random_moments_change_no_byte(medium, tmp_path):
    quantize(medium, tmp_path / "whole.gguf", "q6_k")
    expected = (tmp_path / "whole.gguf").read_bytes()
    out = tmp_path / "x.gguf"
    chance = random.Random(7)
    kills = resumed = 0
    while kills < 30:
        reached = partial_path(out).stat().st_size if partial_path(out).exists() else 0
        process = start(medium, out)
        wait_for_bytes(partial_path(out), reached + chance.randrange(2_000_000), process)
        time.sleep(chance.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if out.exists():
            assert out.read_bytes() == expected
            out.unlink()
        resumed += reached > 0
    subprocess.run(command(medium, out), capture_output=True, check=True)
    assert out.read_bytes() == expected
    assert resumed > 10
