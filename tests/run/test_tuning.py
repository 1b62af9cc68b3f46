"""Files and directories that were tuned: nearer to the original, of the same bytes and types."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import random_tokens
from sampled_models import divergence

from qconvert.checkpoint import TensorInfo, open_checkpoint
from qconvert.checkpoint.files import read_bytes_at
from qconvert.containers.store import open_store
from qconvert.errors import PlanError, UnsupportedError
from qconvert.formats import FORMATS
from qconvert.forward.walk import Place, Walk
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.export import make_export_plan
from qconvert.run.outputs import write_outputs
from qconvert.run.quantize import plan_outputs
from qconvert.run.training.lesson import PIECE, Lesson
from qconvert.run.training.start import beside, write_start
from qconvert.run.training.student import Student
from qconvert.run.training.teacher import teach
from qconvert.run.tuning import Learnt, Tuning, trained, tune
from qconvert.run.types import Run

TUNING = Tuning(8192, batch=512, rate=0.002)
MORE = np.array(random_tokens(256 * 32, seed=5), np.int32).reshape(256, 32)
"""Of the kind that the calibration is of, whose own windows feedback has fitted."""


@dataclass
class Stopping(Silent):
    """Interrupts after so many steps."""

    steps: int

    def advance(self, amount: int, where: str) -> None:
        if where.startswith(f"step {self.steps} "):
            raise KeyboardInterrupt


def tuned_to(
    made: Any, family: str, recipe: Recipe, tuning: Tuning = TUNING, watcher: Any = None
) -> Learnt:
    _, source, calibration = made(family)
    recipe = replace(recipe, calibration=calibration, vocabulary=False)
    checkpoint = open_checkpoint(str(source))
    run = Run(2, watcher or Silent(), "cpu")
    (plan,) = plan_outputs(checkpoint, [beside(recipe, checkpoint.source)], run)
    assert recipe.output is not None
    return tune(open_model(checkpoint), plan, recipe.output, tuning, run, MORE)


def quantized_to(made: Any, family: str, recipe: Recipe) -> Path:
    _, source, calibration = made(family)
    recipe = replace(recipe, calibration=calibration, vocabulary=False)
    run = Run(2, Silent(), "cpu")
    plans = plan_outputs(open_checkpoint(str(source)), [recipe], run)
    return write_outputs(plans, 2, Silent(), "cpu")[0].paths[0]


@pytest.mark.parametrize(
    ("family", "type_", "rate", "weights"),
    [
        ("llama", "q2_k", 0.002, False),
        ("gemma3", "q3_k_m", 0.0005, False),
        ("phi3", "q2_k", 0.001, True),
    ],
)
def test_a_tuned_file_is_nearer_and_no_larger(made, tmp_path, family, type_, rate, weights):
    model = made(family)[0]
    path = tmp_path / "tuned.gguf"
    tuning = replace(TUNING, rate=rate, weights=weights)
    learnt = tuned_to(made, family, Recipe(type_, output=path), tuning)
    assert learnt.outcome is not None
    assert learnt.outcome.step
    plain = quantized_to(made, family, Recipe(type_, output=tmp_path / "plain.gguf"))
    mine, theirs = (open_checkpoint(str(one)).tensors for one in (path, plain))
    assert [(t.name, t.dtype, t.nbytes) for t in mine.values()] == [
        (t.name, t.dtype, t.nbytes) for t in theirs.values()
    ]
    near = divergence(model, path, tmp_path / "a")
    far = divergence(model, plain, tmp_path / "b")
    assert near < far
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".gguf") == [
        "plain.gguf",
        "tuned.gguf",
    ]


def test_a_tuned_directory_has_the_files_of_a_quantized_one(short, tmp_path):
    path = tmp_path / "out"
    learnt = tuned_to(short, "llama", Recipe("w4a16", output=path))
    assert learnt.outcome is not None
    plain = quantized_to(short, "llama", Recipe("w4a16", output=tmp_path / "plain")).parent
    assert sorted(p.name for p in path.iterdir()) == sorted(p.name for p in plain.iterdir())
    if learnt.outcome.step:
        assert (path / "model.safetensors").read_bytes() != (
            plain / "model.safetensors"
        ).read_bytes()
    assert learnt.outcome.after <= learnt.outcome.before


def test_an_interrupted_run_comes_to_the_same_bytes(short, tmp_path):
    whole, again = (tmp_path / f"{name}.gguf" for name in ("whole", "again"))
    tuned_to(short, "llama", Recipe("q2_k", output=whole))
    for steps in (3, 9):
        with pytest.raises(KeyboardInterrupt):
            tuned_to(short, "llama", Recipe("q2_k", output=again), watcher=Stopping(steps))
        assert not again.exists()
    tuned_to(short, "llama", Recipe("q2_k", output=again))
    assert again.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.gguf", "whole.gguf"]
    assert tuned_to(short, "llama", Recipe("q2_k", output=again)).outcome is None  # up to date


def test_a_checkpoint_of_a_tuned_file_gives_the_same_weights_again(short, tmp_path):
    """Exported in float32 it lies on the type's grid, which plain quantizing recognizes."""
    path, again = tmp_path / "tuned.gguf", tmp_path / "again.gguf"
    few = replace(TUNING, tokens=1024, weights=True)
    learnt = tuned_to(short, "llama", Recipe("q4_0", output=path), few)
    assert learnt.outcome is not None
    exported = Recipe("f32", output=tmp_path / "checkpoint")
    write_outputs([make_export_plan(open_checkpoint(str(path)), exported)], 2, Silent())
    recipe = Recipe("q4_0", output=again, vocabulary=False)
    run = Run(2, Silent(), "cpu")
    source = open_checkpoint(str(tmp_path / "checkpoint"))
    write_outputs(plan_outputs(source, [recipe], run), 2, Silent())
    mine, other = (open_checkpoint(str(one)).tensors for one in (path, again))
    compared = [name for name, info in mine.items() if info.dtype == "Q4_0"]
    assert len(compared) > 25
    for name in compared:  # a block of -d and the opposite codes is the same
        first, second = (read_values(one[name]) for one in (mine, other))
        np.testing.assert_array_equal(first, second)


def read_values(info: TensorInfo) -> np.ndarray:
    raw = np.frombuffer(read_bytes_at(info.path, info.offset, info.nbytes), np.uint8)
    return FORMATS["Q4_0"].dequantize((raw.reshape(info.rows, -1),))


def test_what_cannot_be_read_back_is_refused(made, tmp_path):
    with pytest.raises(UnsupportedError, match="cannot be tuned"):
        tuned_to(made, "llama", Recipe("mlx4", output=tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_without_tokens_there_is_no_tuning(made, tmp_path):
    _, source, _ = made("llama")
    checkpoint = open_checkpoint(str(source))
    recipe = Recipe("q2_k", output=tmp_path / "a.gguf", vocabulary=False)
    run = Run(1, Silent(), "cpu")
    (plan,) = plan_outputs(checkpoint, [recipe], run)
    with pytest.raises(PlanError, match="needs a calibration"):
        tune(open_model(checkpoint), plan, tmp_path / "b.gguf", TUNING, run)


def test_gradients_are_those_of_transformers_own_model(made, tmp_path, monkeypatch):
    """By all gains of norms, of the divergence, derived through the whole model at once; here in
    pieces of a window, for which weights are made once."""

    monkeypatch.setitem(PIECE, "cpu", 1)
    model, source, calibration = made("llama")
    recipe = Recipe("q2_k", output=tmp_path / "a.gguf", calibration=calibration, vocabulary=False)
    run = Run(2, Silent(), "cpu")
    checkpoint = open_checkpoint(str(source))
    original = open_model(checkpoint)
    start = write_start(plan_outputs(checkpoint, [recipe], run)[0], run)
    tokens = start.plan.sample[:4]
    place = Place(tmp_path / ".work.partial", "cpu", "f32", states="student")
    with open_store(tmp_path / "work", "a") as store:
        walk = Walk(open_model(start.checkpoint), tokens, place)
        teacher = teach(original, tokens, place, store, lambda count: None)
        student = Student(Lesson(walk, 2, teacher), *trained(original, start, TUNING, "cpu"), 0.01)
        loss = student.learn(np.arange(2))
        judged = student.judge()

    exported = Recipe("f32", output=tmp_path / "exported")
    write_outputs([make_export_plan(start.checkpoint, exported)], 2, Silent())
    other = type(model).from_pretrained(tmp_path / "exported", dtype=torch.float32).eval()

    def diverged(windows: np.ndarray) -> torch.Tensor:
        ids = torch.from_numpy(windows.astype(np.int64))
        with torch.no_grad():
            aim = torch.log_softmax(model(ids).logits, -1)
        return (aim.exp() * (aim - torch.log_softmax(other(ids).logits, -1))).sum(-1).mean()

    whole = diverged(tokens[:2])
    whole.backward()
    assert loss == pytest.approx(float(whole.detach()), rel=1e-4)
    assert judged == pytest.approx(float(diverged(tokens[2:]).detach()), rel=1e-4)
    names = {
        "output_norm.weight": "model.norm.weight",
        "blk.0.attn_norm.weight": "model.layers.0.input_layernorm.weight",
        "blk.5.ffn_norm.weight": "model.layers.5.post_attention_layernorm.weight",
    }
    parameters = dict(other.named_parameters())
    for mine, theirs in names.items():
        own, parameter = student.parameters[mine].grad, parameters[theirs]
        wanted = (parameter.grad * parameter).detach()
        assert torch.allclose(own, wanted, rtol=1e-3, atol=1e-6)
    name = "blk.3.ffn_down.weight"
    matrix = parameters["model.layers.3.mlp.down_proj.weight"]
    (one,) = student.matrices[name]
    before = {key: parameter.grad.clone() for key, parameter in one.tuned.parameters()}
    (one.tuned.weights(torch.float32) * matrix.grad).sum().backward()
    for key, parameter in one.tuned.parameters():
        assert torch.allclose(parameter.grad, 2 * before[key], rtol=1e-3, atol=1e-6)
