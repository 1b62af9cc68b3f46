"""A calibration run: what it gathers, and that interruptions change nothing."""

import contextlib
import json
import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captures import make_sample, run_capture
from common import save_model

from qconvert.calibration.capture import capture, rare_experts
from qconvert.calibration.file import check_calibration, read_calibration
from qconvert.calibration.work import keep_sample
from qconvert.checkpoint import open_checkpoint
from qconvert.containers.folder import work_folder
from qconvert.errors import CheckpointError, OutputError, PlanError, WeightError
from qconvert.machine.watcher import Silent
from qconvert.text.types import Sample


def test_inputs_of_one_tensor_share_their_statistics(tmp_path: Path):
    save_model("qwen3", tmp_path / "m")
    found = run_capture(tmp_path / "m", tmp_path / "c").calibration
    assert list(found.inputs)[:4] == [
        "blk.0.attn_q.weight",
        "blk.0.attn_output.weight",
        "blk.0.ffn_gate.weight",
        "blk.0.ffn_down.weight",
    ]
    assert found.inputs["blk.0.attn_q.weight"].weights == tuple(
        f"blk.0.attn_{part}.weight" for part in "qkv"
    )
    assert found.inputs["blk.2.ffn_gate.weight"].weights == (
        "blk.2.ffn_gate.weight",
        "blk.2.ffn_up.weight",
    )
    assert list(found.inputs)[-1] == "output.weight"
    assert len(found.inputs) == 3 * 4 + 1


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_the_file_holds_what_was_returned(family: str, tmp_path: Path):
    save_model(family, tmp_path / "m", tied=family == "gpt2")
    captured = run_capture(tmp_path / "m", tmp_path / "c")
    read = read_calibration(tmp_path / "c")
    assert read.by_weight.keys() == captured.calibration.by_weight.keys()
    for name, one in captured.calibration.by_weight.items():
        assert np.array_equal(read.by_weight[name].sum_squares, one.sum_squares)
        assert one.count.tolist() == [12 * 32]
    assert not work_folder(tmp_path / "c").exists()
    assert ("output.weight" in read.by_weight) == (family == "llama")
    assert ("token_embd.weight" in read.by_weight) == (family == "gpt2")


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_every_expert_has_statistics_of_its_own(family: str, tmp_path: Path):
    save_model(family, tmp_path / "m")
    found = run_capture(tmp_path / "m", tmp_path / "c").calibration
    gate = found.by_weight["blk.1.ffn_gate_exps.weight"]
    assert gate is found.by_weight["blk.1.ffn_up_exps.weight"]
    down = found.by_weight["blk.1.ffn_down_exps.weight"]
    assert gate.matrices == down.matrices == 5
    assert gate.count.sum() == down.count.sum() == 2 * 12 * 32
    assert np.array_equal(gate.count, down.count)
    router = found.by_weight["blk.1.ffn_gate_inp.weight"]
    # Two of five experts see each token, so their sums are twice the router's.
    np.testing.assert_allclose(gate.sum_squares.sum(0), 2 * router.sum_squares[0], rtol=1e-5)


def test_experts_that_few_tokens_reach_are_named(tmp_path: Path):
    save_model("qwen3_moe", tmp_path / "m")
    sample = make_sample(1, 12)
    found = run_capture(tmp_path / "m", tmp_path / "c", sample=sample).calibration
    rare = rare_experts(found)
    counts = found.by_weight["blk.0.ffn_gate_exps.weight"].count
    assert rare["blk.0.ffn_gate_exps.weight"] == dict(enumerate(counts.tolist()))
    assert "blk.0.attn_q.weight" not in rare


def test_the_batch_changes_only_rounding(tmp_path: Path):
    save_model("gemma3", tmp_path / "m")
    one = run_capture(tmp_path / "m", tmp_path / "a", batch=5).calibration
    other = run_capture(tmp_path / "m", tmp_path / "b", batch=12).calibration
    for name, statistics in one.by_weight.items():
        np.testing.assert_allclose(
            statistics.sum_squares, other.by_weight[name].sum_squares, rtol=1e-4
        )


def test_the_same_run_gives_the_same_bytes_for_any_number_of_threads(tmp_path: Path):
    save_model("qwen3", tmp_path / "m")
    for name, threads in (("a", 1), ("b", 1), ("c", 2)):
        run_capture(tmp_path / "m", tmp_path / name, threads=threads)
    content = [(tmp_path / name).read_bytes() for name in "abc"]
    assert content[0] == content[1] == content[2]


@pytest.fixture(scope="module")
def children() -> Any:
    """Processes that start with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "transformers.models.qwen3.modeling_qwen3", "captures"]
    )
    return context


def test_kill_9_at_any_moment_loses_at_most_a_block_and_changes_no_byte(
    tmp_path: Path, children: Any
):
    save_model("qwen3", tmp_path / "m", num_hidden_layers=6)
    run_capture(tmp_path / "m", tmp_path / "whole")
    path = tmp_path / "c"
    draw = random.Random(5)
    blocks, kills = 0, 0
    while not path.exists():
        child = children.Process(
            target=run_capture, args=(tmp_path / "m", path), kwargs={"pause": 0.03}
        )
        child.start()
        deadline = time.monotonic() + 60
        while child.is_alive() and not _at_work(path, blocks):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if kills < 5:
            time.sleep(draw.uniform(0, 0.4))
            child.kill()
            kills += 1
        child.join()
        now = len(list(work_folder(path).glob("block-*.safetensors")))
        assert path.exists() or now >= blocks
        blocks = now
    assert kills >= 3
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "m", "whole"]


def _at_work(path: Path, blocks: int) -> bool:
    return (work_folder(path) / "states-1").exists()


def stop_after(blocks: int) -> type:
    """A watcher that interrupts as Ctrl-C does, in the block after so many."""

    class Interrupt:
        def begin(self, total: int, done: int) -> None:
            self.seen: set[str] = set()
            self.done = done / total

        def advance(self, amount: int, where: str) -> None:
            self.seen.add(where)
            if len(self.seen) > blocks:
                raise KeyboardInterrupt

        def note(self, message: str) -> None:
            pass

    return Interrupt


def interrupted(model: Path, path: Path, blocks: int, **changes: Any) -> Any:
    """A run that was interrupted; None where it was not."""
    watcher = stop_after(blocks)()
    settings: dict[str, Any] = {"device": "cpu", "dtype": "f32", "batch": 3} | changes
    sample = settings.pop("sample", make_sample())
    with contextlib.suppress(KeyboardInterrupt):
        capture(open_checkpoint(str(model)), sample, path, watcher=watcher, **settings)
    return watcher


def test_an_interrupted_run_is_taken_up(tmp_path: Path):
    save_model("qwen3", tmp_path / "m", num_hidden_layers=5)
    interrupted(tmp_path / "m", tmp_path / "c", 3)
    assert not (tmp_path / "c").exists()
    captured = run_capture(tmp_path / "m", tmp_path / "c")
    assert captured.resumed == 3
    run_capture(tmp_path / "m", tmp_path / "whole")
    assert (tmp_path / "c").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("change", ["sample", "dtype", "batch", "model"])
def test_another_run_takes_nothing_up(change: str, tmp_path: Path):
    save_model("qwen3", tmp_path / "m")
    model = tmp_path / "m"
    changes: dict[str, Any] = {
        "sample": {"sample": make_sample(seed=8)},
        "dtype": {"dtype": "bf16"},
        "batch": {"batch": 4},
        "model": {},
    }[change]
    interrupted(model, tmp_path / "c", 2)
    if change == "model":
        model = tmp_path / "other"
        save_model("qwen3", model, rms_norm_eps=0.01)
    captured = run_capture(model, tmp_path / "c", **changes)
    assert captured.resumed == 0
    fresh = run_capture(model, tmp_path / "fresh", **changes)
    assert (tmp_path / "c").read_bytes() == (tmp_path / "fresh").read_bytes()
    assert fresh.resumed == 0


@pytest.mark.parametrize("damaged", [0, 2])
def test_a_damaged_block_makes_the_run_begin_anew(damaged: int, tmp_path: Path):
    save_model("qwen3", tmp_path / "m", num_hidden_layers=4)
    interrupted(tmp_path / "m", tmp_path / "c", 3)
    block = work_folder(tmp_path / "c") / f"block-0000{damaged}.safetensors"
    block.write_bytes(block.read_bytes()[:-1])
    captured = run_capture(tmp_path / "m", tmp_path / "c")
    run_capture(tmp_path / "m", tmp_path / "whole")
    assert captured.resumed == 0
    assert (tmp_path / "c").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_sample_that_took_long_is_kept_for_the_next_run(tmp_path: Path):
    save_model("qwen3", tmp_path / "m")
    checkpoint = open_checkpoint(str(tmp_path / "m"))
    made = []

    def draw(kept: Path) -> Sample:
        made.append(make_sample(seed=len(made)))
        return made[-1]

    def get(*about: object) -> Sample:
        return keep_sample(checkpoint, tmp_path / "c", about, draw)

    first = get(1, 2)
    again = get(1, 2)
    assert len(made) == 1
    assert np.array_equal(first.tokens, again.tokens)
    assert (first.source, first.seed) == (again.source, again.seed)
    interrupted(tmp_path / "m", tmp_path / "c", 1, sample=again)
    assert np.array_equal(get(1, 2).tokens, first.tokens)
    get(1, 3)
    assert len(made) == 2
    kept = work_folder(tmp_path / "c") / "sample.npz"
    kept.write_bytes(kept.read_bytes()[:-40])
    get(1, 3)
    assert len(made) == 3
    run_capture(tmp_path / "m", tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "m"]


def test_what_fails_at_once_leaves_nothing_behind(tmp_path: Path):
    save_model("qwen3", tmp_path / "m")
    with pytest.raises(OutputError, match="no directory"):
        run_capture(tmp_path / "m", tmp_path / "m" / "config.json" / "c")
    with pytest.raises(PlanError):
        run_capture(tmp_path / "m", tmp_path / "c", sample=make_sample(1, 600))
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_two_runs_do_not_write_one_file(tmp_path: Path):
    import fcntl

    save_model("qwen3", tmp_path / "m")
    folder = work_folder(tmp_path / "c")
    folder.mkdir()
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another run"):
            run_capture(tmp_path / "m", tmp_path / "c")


def test_the_disk_is_asked_for_room_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import shutil
    from types import SimpleNamespace

    save_model("qwen3", tmp_path / "m")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"are needed in .* for hidden states"):
        run_capture(tmp_path / "m", tmp_path / "c")


@pytest.mark.parametrize("where", ["self_attn.o_proj", "mlp.down_proj"])
def test_nan_in_the_activations_names_the_place(where: str, tmp_path: Path):
    import torch

    model = save_model("qwen3", tmp_path / "m")
    with torch.no_grad():
        model.model.layers[1].get_submodule(where).weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(WeightError, match=r"block 1|blk\.1\."):
        run_capture(tmp_path / "m", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_windows_longer_than_the_model_are_refused(tmp_path: Path):
    save_model("gpt2", tmp_path / "m")
    with pytest.raises(PlanError, match="97 tokens are longer than the model's 96"):
        run_capture(tmp_path / "m", tmp_path / "c", sample=make_sample(2, 97))


def test_a_token_that_the_model_lacks_is_refused(tmp_path: Path):
    save_model("qwen3", tmp_path / "m")
    sample = make_sample()
    sample.tokens[0, 0] = 5000
    with pytest.raises(PlanError, match="token 5000"):
        run_capture(tmp_path / "m", tmp_path / "c", sample=sample)


class Touching(Silent):
    """Somebody writes to the model once the first block is done."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def advance(self, amount: int, where: str) -> None:
        if self.file.stat().st_mtime_ns != 1:
            os.utime(self.file, ns=(1, 1))


def test_a_model_that_changes_during_the_run_is_refused(tmp_path: Path):
    save_model("qwen3", tmp_path / "m", num_hidden_layers=3)
    checkpoint = open_checkpoint(str(tmp_path / "m"))
    touching = Touching(tmp_path / "m" / "model.safetensors")
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        capture(checkpoint, make_sample(), tmp_path / "c", device="cpu", watcher=touching)
    assert not (tmp_path / "c").exists()
    assert run_capture(tmp_path / "m", tmp_path / "c").resumed == 0


def test_a_calibration_of_a_model_with_stretched_positions_is_its_own(tmp_path: Path):
    """transformers writes into the dictionaries of a configuration."""
    save_model("llama", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    scaling = config.pop("rope_parameters")
    config |= {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    run_capture(tmp_path / "m", tmp_path / "c")
    checkpoint = open_checkpoint(str(tmp_path / "m"))
    check_calibration(read_calibration(tmp_path / "c"), checkpoint)
