"""Students that were taught by a larger model, as transformers loads them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sampled_models import OTHER, SAMPLE

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import UnsupportedError
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.run.distilling import Distilled, Distilling, distill
from qconvert.run.types import Run

HOW = Distilling(4096, batch=256, rate=0.02)


def with_layers(source: Path, folder: Path, kept: list[int], prefix: str) -> Path:
    """A copy of a model with some of its layers."""
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": len(kept)}))
    tensors = load_file(source / "model.safetensors")
    made = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            made[name] = tensor
            continue
        number, _, rest = name.removeprefix(prefix).partition(".")
        if int(number) in kept:
            made[f"{prefix}{kept.index(int(number))}.{rest}"] = tensor
    save_file(made, folder / "model.safetensors", {"format": "pt"})
    return folder


def taught(student: Path, teacher: Path, out: Path, how: Distilling = HOW) -> Distilled:
    models = [open_model(open_checkpoint(str(one))) for one in (student, teacher)]
    return distill(*models, SAMPLE.tokens, out, how, Run(2, Silent(), "cpu"))


def test_a_student_of_half_the_layers_comes_nearer(made, tmp_path):
    teacher, source, _ = made("llama")
    student = with_layers(source, tmp_path / "student", [0, 2, 5, 7], "model.layers.")
    done = taught(student, source, tmp_path / "taught")
    assert done.outcome.step

    def divergence(path: Path) -> float:
        other = type(teacher).from_pretrained(path, dtype=torch.float32).eval()
        with torch.no_grad():
            own, its = (torch.log_softmax(m(OTHER).logits.double(), -1) for m in (teacher, other))
        return float((own.exp() * (own - its)).sum(-1).mean())

    assert divergence(tmp_path / "taught") < 0.9 * divergence(student)
    before, after = (load_file(p / "model.safetensors") for p in (student, tmp_path / "taught"))
    assert {n: (t.shape, t.dtype) for n, t in before.items()} == {
        n: (t.shape, t.dtype) for n, t in after.items()
    }
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {"model.embed_tokens.weight", "lm_head.weight"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student", "taught"]


def test_an_encoder_learns_embeddings(made, tmp_path):
    teacher, source, _ = made("bert")
    student = with_layers(source, tmp_path / "student", [1, 6], "encoder.layer.")
    taught(student, source, tmp_path / "taught")

    def likeness(path: Path) -> float:
        other: Any = type(teacher).from_pretrained(path, dtype=torch.float32).eval()
        with torch.no_grad():
            own, its = (m(OTHER).last_hidden_state.mean(dim=1) for m in (teacher, other))
        return float(torch.nn.functional.cosine_similarity(own, its).mean())

    assert 1 - likeness(tmp_path / "taught") < 0.8 * (1 - likeness(student))


def test_what_cannot_be_a_pair_is_refused(made, tmp_path):
    _, llama, _ = made("llama")
    _, bert, _ = made("bert")
    with pytest.raises(UnsupportedError, match="embeds them"):
        taught(llama, bert, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_gradients_of_weights_are_those_of_transformers_own_model(made, tmp_path):
    from qconvert.containers.store import open_store
    from qconvert.forward.walk import Place, Walk
    from qconvert.run.distilling import pupil_of
    from qconvert.run.training.lesson import Lesson
    from qconvert.run.training.teacher import teach

    teacher, source, _ = made("qwen3_moe")
    student = with_layers(source, tmp_path / "student", [0, 3, 7], "model.layers.")
    own, other = (open_model(open_checkpoint(str(one))) for one in (student, source))
    tokens, place = SAMPLE.tokens[:3], Place(tmp_path / ".w.partial", "cpu", "f32")
    with open_store(tmp_path / "w", "a") as store:
        aim = teach(other, tokens, place, store, lambda count: None)
        pupil = pupil_of(Lesson(Walk(own, tokens, place), 2, aim), 0.01)
        loss = pupil.learn(np.arange(2))
    model = type(teacher).from_pretrained(student, dtype=torch.float32).eval()
    ids = torch.from_numpy(tokens[:2].astype(np.int64))
    with torch.no_grad():
        wanted = torch.log_softmax(teacher(ids).logits, -1)
    whole = (wanted.exp() * (wanted - torch.log_softmax(model(ids).logits, -1))).sum(-1).mean()
    whole.backward()
    assert loss == pytest.approx(float(whole.detach()), rel=1e-4)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert len(pupil.weights) == len(gradients) - 2
    for name, weight in pupil.weights.items():
        scale = float(gradients[name].abs().max())
        assert torch.allclose(weight.grad, gradients[name], rtol=1e-3, atol=1e-4 * scale), name
