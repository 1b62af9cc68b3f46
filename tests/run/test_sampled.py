"""Outputs for whose weights the model runs on a calibration's tokens: what comes out is held
against transformers' own model of the original, on tokens that nobody saw."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captures import make_sample, run_capture
from listening import Listening
from sampled_models import OTHER, divergence, quantized, quantized_together

from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.errors import OutputError
from qconvert.formats.types import Seen
from qconvert.machine.watcher import Silent
from qconvert.plan.recipe import Recipe
from qconvert.run.quantize import plan_outputs
from qconvert.run.types import Run


@pytest.mark.parametrize(
    ("family", "type_"),
    [
        ("llama", "q4_k_m"),
        ("llama", "q2_k"),
        ("llama", "iq3_xxs"),
        ("llama", "w4a16"),
        ("qwen3_moe", "q4_k_m"),
        ("gpt2", "q4_k_m"),
        ("gemma3", "q3_k_m"),
        ("phi3", "q4_0"),
        ("olmo2", "iq4_xs"),
    ],
)
def test_it_lies_nearer_to_the_original(made: Any, family: str, type_: str, tmp_path: Path):
    model = made(family)[0]
    errors = []
    for feedback in (True, False):
        folder = tmp_path / str(feedback)
        folder.mkdir()
        name = "out" if type_.startswith("w") else "out.gguf"
        recipe = Recipe(type_, output=folder / name, feedback=feedback, group_size=32)
        watcher = Listening()
        path = quantized(made, family, recipe, watcher)
        assert any("nearer to the original" in note for note in watcher.notes) == feedback
        errors.append(divergence(model, path, folder))
        assert not [one for one in folder.iterdir() if "feedback" in one.name]
    assert errors[0] < 0.97 * errors[1]


@pytest.mark.parametrize("tied", [False, True])
def test_the_output_projection_alone_brings_logits_nearer(
    short: Any, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As a tensor of its own, and as the token embedding, whose rows count by themselves as much;
    made in pieces, and held against transformers' own inputs of it for other tokens."""
    monkeypatch.setattr("qconvert.run.fitting.PIECE", 1 << 14)
    family = "llama tied" if tied else "llama"
    model = short(family)[0]
    with torch.no_grad():
        x = model.model(OTHER).last_hidden_state.flatten(0, 1)
    errors = []
    for feedback in (True, False):
        path = tmp_path / f"{feedback}.gguf"
        name = "token_embd.weight" if tied else "output.weight"
        recipe = Recipe("f32", output=path, feedback=feedback, overrides=((name, "q3_k"),))
        stored = open_checkpoint(str(quantized(short, family, recipe))).tensors[name]
        off = torch.from_numpy(read_rows(stored, 0, stored.rows)) - model.lm_head.weight.detach()
        alone = x.square().mean() * off.square().sum(1) if tied else torch.zeros(1)
        errors.append(float((off @ x.T).square().mean() + alone.mean()))
    print("VAL", errors)
    assert errors[0] < (0.99 if tied else 0.95) * errors[1]


def test_the_bytes_do_not_depend_on_threads(short: Any, usual: Any, tmp_path: Path):
    """And a file that is up to date is left."""
    recipe = Recipe("q4_k_m", output=tmp_path / "x.gguf")
    path = quantized(short, "llama", recipe, threads=7)
    assert path.read_bytes() == usual("llama").read_bytes()
    when = path.stat().st_mtime_ns
    again = Listening()
    assert quantized(short, "llama", recipe, again) == path
    assert again.notes == [f"up to date: {path}"]
    assert path.stat().st_mtime_ns == when
    assert not again.begun


@pytest.mark.parametrize("family", ["gpt2", "qwen3_moe"])
def test_the_bytes_do_not_depend_on_where_activations_wait(
    family: str, short: Any, usual: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In memory, or on the disk where they are many."""
    from qconvert.forward import passage

    expected = usual(family).read_bytes()
    monkeypatch.setattr(passage, "WAITING", 0)
    path = quantized(short, family, Recipe("q4_k_m", output=tmp_path / "x.gguf"))
    assert path.read_bytes() == expected
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("steps", [1, 3])
def test_an_interrupted_run_is_taken_up(short: Any, usual: Any, steps: int, tmp_path: Path):
    recipe = Recipe("q4_k_m", output=tmp_path / "out.gguf")
    with pytest.raises(KeyboardInterrupt):
        quantized(short, "llama", recipe, Listening(steps))
    again = Listening()
    path = quantized(short, "llama", recipe, again)
    assert path.read_bytes() == usual("llama").read_bytes()
    assert again.begun[0][1] > 0 or steps == 1
    assert [one.name for one in tmp_path.iterdir()] == ["out.gguf"]


def together(folder: Path) -> list[Recipe]:
    """What is asked of one run."""
    folder.mkdir(exist_ok=True)
    return [
        Recipe("q4_k_m", output=folder / "a.gguf"),
        Recipe("w4a16", output=folder / "b", group_size=32),
        Recipe("bf16", output=folder / "c.gguf"),
        Recipe("q2_k", output=folder / "d.gguf"),
    ]


@pytest.fixture(scope="module")
def at_once(short: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Several outputs of one run, uninterrupted."""
    return quantized_together(short, "llama", together(tmp_path_factory.mktemp("at once")))


def test_outputs_of_one_run_have_the_bytes_of_each_alone(
    short: Any, usual: Any, at_once: list[Path], tmp_path: Path
):
    """Though the original runs once for them."""
    alone = [quantized(short, "llama", one) for one in together(tmp_path)[1:]]
    for own, other in zip(at_once, [usual("llama"), *alone], strict=True):
        assert own.read_bytes() == other.read_bytes()


def test_the_same_with_activations_on_the_disk(
    short: Any, usual: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from qconvert.forward import passage

    family = "qwen3_moe"
    alone = [usual(family), quantized(short, family, together(tmp_path / "alone")[1])]
    monkeypatch.setattr(passage, "WAITING", 0)
    paths = quantized_together(short, family, together(tmp_path / "at once")[:2])
    for own, other in zip(paths, alone, strict=True):
        assert own.read_bytes() == other.read_bytes()


def test_outputs_of_one_run_are_taken_up_together(short: Any, at_once: list[Path], tmp_path: Path):
    recipes = together(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        quantized_together(short, "llama", recipes, Listening(2))
    again = Listening()
    paths = quantized_together(short, "llama", recipes, again)
    assert again.begun[0][1] > 0
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in at_once]


def test_one_output_that_is_ahead_of_another_is_made_anew_with_it(
    short: Any, at_once: list[Path], tmp_path: Path
):
    """Hidden states of the original are there for one place in the model."""
    recipes = together(tmp_path / "out")
    for count, steps in ((4, 1), (1, 3)):
        with pytest.raises(KeyboardInterrupt):
            quantized_together(short, "llama", recipes[:count], Listening(steps))
    again = Listening()
    paths = quantized_together(short, "llama", recipes, again)
    assert again.begun[0][1] == 0
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in at_once]


def test_another_sample_makes_another_file(made: Any, tmp_path: Path):
    """Though the importance is the same."""
    _, model, calibration = made("llama")
    other = tmp_path / "other.safetensors"
    run_capture(model, other, sample=make_sample(64, 32, seed=8))
    headers = []
    for name in (calibration, other):
        recipe = Recipe(
            "q4_k_m",
            tmp_path / "out.gguf",
            calibration=name,
            importance=calibration,
            vocabulary=False,
        )
        (plan,) = plan_outputs(open_checkpoint(str(model)), [recipe], Run(1, Silent()))
        headers.append([file.header() for file in plan.target.weight_files])
    assert headers[0] != headers[1]


def test_what_is_in_the_way_is_said_before_the_model_runs(made: Any, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    watcher = Listening()
    with pytest.raises(OutputError, match="exists and is not what this command makes"):
        quantized(made, "llama", Recipe("w4a16", output=tmp_path / "out", group_size=32), watcher)
    assert not watcher.begun
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_one_window_alone_cannot_be_guarded(made: Any, tmp_path: Path):
    _, model, _ = made("llama")
    calibration = tmp_path / "c.safetensors"
    run_capture(model, calibration, sample=make_sample(1, 64))
    recipe = Recipe("q4_k_m", tmp_path / "out.gguf", calibration=calibration, vocabulary=False)
    watcher = Listening()
    (plan,) = plan_outputs(open_checkpoint(str(model)), [recipe], Run(1, watcher))
    assert plan.sample is None
    assert any("at least 2 windows" in notice for notice in plan.notices)


def test_a_calibration_that_misleads_does_no_harm(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What the algorithm is shown has nothing to do with the inputs: the guard keeps the rest."""
    from qconvert.run import fitting

    def misled(seen: Seen, share: float) -> Seen:
        mix = torch.from_numpy(np.random.default_rng(3).normal(size=seen.hessian.shape)).float()
        return own(seen._replace(hessian=mix @ mix.T), 0.01)

    own = fitting.factored
    plain = quantized(made, "llama", Recipe("q4_k_m", output=tmp_path / "p.gguf", feedback=False))
    monkeypatch.setattr(fitting, "factored", misled)
    path = quantized(made, "llama", Recipe("q4_k_m", output=tmp_path / "out.gguf"))
    model = made("llama")[0]
    errors = []
    for name, file in (("plain", plain), ("misled", path)):
        (tmp_path / name).mkdir()
        errors.append(divergence(model, file, tmp_path / name))
    assert errors[1] < 1.02 * errors[0]


def test_what_it_takes_is_told_before(made: Any, tmp_path: Path):
    """Of this small model hardly more than what libraries take; of one of 8 billion parameters
    what its blocks' activations and second moments take."""
    from qconvert.plan.algorithms import LIBRARIES, memory

    _, model, calibration = made("llama")
    recipe = Recipe("q4_k_m", output=tmp_path / "x.gguf", calibration=calibration, vocabulary=False)
    watcher = Listening()
    (plan,) = plan_outputs(open_checkpoint(str(model)), [recipe], Run(2, watcher))
    assert LIBRARIES < memory([plan]) < 1.1 * LIBRARIES
    quantized(made, "llama", recipe, watcher)
    assert any("about 1.0" in note and "GB of memory" in note for note in watcher.notes)
    wide = [
        replace(tensor, map=replace(tensor.map, shape=(4096, columns)))
        for tensor in plan.tensors
        if tensor.algorithm
        for columns in (4096, 4096, 14336)
    ]
    large = replace(plan, tensors=tuple(wide), sample=np.zeros((128, 512), np.int32))
    assert 8e9 < memory([large]) < 12e9  # of a block of Llama 3 8B, 8.9 GB were measured
