"""Students that were taught by a larger model, as transformers loads them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sampled_models import OTHER, SAMPLE

from qconvert.checkpoint import open_checkpoint
from qconvert.containers.store import open_store
from qconvert.errors import OutputError, PlanError, QconvertError, UnsupportedError, UsageError
from qconvert.forward.walk import Place, Walk
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.run.distilling import Distilled, Distilling, distill
from qconvert.run.training.fresh import fresh_student
from qconvert.run.training.lesson import PIECE, Lesson
from qconvert.run.training.loss import Losses
from qconvert.run.training.matching import matching_blocks
from qconvert.run.training.pupil import adapted_of, pupil_of
from qconvert.run.training.teacher import teach
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
    with pytest.raises(UnsupportedError, match="for models that write texts"):
        taught(bert, bert, tmp_path / "out", replace(HOW, losses=Losses(next_token=1)))
    assert not list(tmp_path.iterdir())
    other = settings_like(llama, tmp_path / "config.json", hidden_size=128, num_hidden_layers=1)
    own = open_model(open_checkpoint(str(llama)))
    narrow = open_model(fresh_student(other, own, tmp_path / "new", 0))
    with pytest.raises(PlanError, match="have 128 numbers, those of llama 256"):
        distill(
            *(narrow, own, SAMPLE.tokens, tmp_path / "out", replace(HOW, losses=Losses(hidden=1))),
            Run(2, Silent(), "cpu"),
        )


@contextmanager
def lesson_of(student: Path, source: Path, folder: Path, losses: Losses) -> Iterator[Lesson]:
    """Three windows, two of them for learning."""
    own, other = (open_model(open_checkpoint(str(one))) for one in (student, source))
    tokens, place = SAMPLE.tokens[:3], Place(folder / ".w.partial", "cpu", "f32")
    kept = matching_blocks(own, other) if losses.hidden else ()
    with open_store(folder / "w", "a") as store:
        aim = teach(other, tokens, place, store, lambda count: None, kept)
        yield Lesson(Walk(own, tokens, place), 2, aim, losses)


def leaving(model: Any, ids: Any) -> tuple[Any, list[Any]]:
    """Logits, and what leaves each of transformers' blocks."""
    seen: list[Any] = []

    def keep(module: Any, args: Any, out: Any) -> None:
        seen.append(out[0] if isinstance(out, tuple) else out)

    hooks = [layer.register_forward_hook(keep) for layer in model.model.layers]
    logits = model(ids).logits
    for hook in hooks:
        hook.remove()
    return logits, seen


def whole_loss(teacher: Any, model: Any, ids: Any, losses: Losses, matching: list[int]) -> Any:
    """All that counts, of transformers' own models, as a formula has it."""
    with torch.no_grad():
        wanted, others = leaving(teacher, ids)
        wanted = wanted.log_softmax(-1)
    logits, own = leaving(model, ids)
    made = logits.log_softmax(-1)
    loss = (wanted.exp() * (wanted - made)).sum(-1).mean()
    follows = made[:, :-1].gather(-1, ids[:, 1:, None])
    loss = loss - losses.next_token * follows.sum() / ids.numel()
    off = [
        ((x - others[k]).square().sum(-1) / others[k].square().sum(-1)).mean()
        for x, k in zip(own, matching, strict=True)
    ]
    return loss + losses.hidden * sum(off) / len(off)


@pytest.mark.parametrize(("losses", "piece"), [(Losses(), 512), (Losses(0.5, 2.0), 1)])
def test_gradients_of_weights_are_those_of_transformers_own_model(
    made, tmp_path, monkeypatch, losses, piece
):
    """In one piece, and with weights that stand for several."""
    monkeypatch.setitem(PIECE, "cpu", piece)
    teacher, source, _ = made("qwen3_moe")
    student = with_layers(source, tmp_path / "student", [0, 3, 7], "model.layers.")
    with lesson_of(student, source, tmp_path, losses) as lesson:
        pupil = pupil_of(lesson, 0.01)
        loss = pupil.learn(np.arange(2))
    model = type(teacher).from_pretrained(student, dtype=torch.float32).eval()
    ids = torch.from_numpy(SAMPLE.tokens[:2].astype(np.int64))
    whole = whole_loss(teacher, model, ids, losses, [1, 4, 7])
    whole.backward()
    assert loss == pytest.approx(float(whole.detach()), rel=1e-4)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert len(pupil.weights) == len(gradients) - 2
    for name, weight in pupil.weights.items():
        scale = float(gradients[name].abs().max())
        assert torch.allclose(weight.grad, gradients[name], rtol=1e-3, atol=1e-4 * scale), name


def test_gradients_at_a_rank_are_those_of_the_weights_through_the_factors(
    made, tmp_path, monkeypatch
):
    monkeypatch.setitem(PIECE, "cpu", 1)
    teacher, source, _ = made("qwen3_moe")
    student = with_layers(source, tmp_path / "student", [0, 7], "model.layers.")
    with lesson_of(student, source, tmp_path, Losses()) as lesson:
        pupil = adapted_of(lesson, 0.01, 3, seed=1)
        pupil.learn(np.arange(2))
        for _, down in pupil.factors.values():
            assert down.grad is None or not down.grad.any()
    model = type(teacher).from_pretrained(student, dtype=torch.float32).eval()
    ids = torch.from_numpy(SAMPLE.tokens[:2].astype(np.int64))
    whole_loss(teacher, model, ids, Losses(), [3, 7]).backward()
    assert {up.shape[-1] for up, _ in pupil.factors.values()} == {3}
    for name, parameter in model.named_parameters():
        if name in pupil.factors:
            up, down = pupil.factors[name]
            expected = parameter.grad @ down.detach().mT
            scale = float(expected.abs().max())
            assert torch.allclose(up.grad, expected, rtol=1e-3, atol=1e-4 * scale), name


def test_what_is_added_at_a_rank_is_merged(made, tmp_path):
    _, source, _ = made("llama")
    student = with_layers(source, tmp_path / "student", [0, 2, 5, 7], "model.layers.")
    how = replace(HOW, lora=4)
    done = taught(student, source, tmp_path / "taught", how)
    assert done.outcome.after < 0.95 * done.outcome.before
    before, after = (load_file(p / "model.safetensors") for p in (student, tmp_path / "taught"))
    ranks = {}
    for name in before:
        if "proj" in name:
            values = torch.linalg.svdvals((after[name] - before[name]).double())
            ranks[name] = int((values > 1e-4 * values[0]).sum())
    assert set(ranks.values()) == {4}


def test_blocks_match_those_that_pruning_has_left(made, tmp_path):
    _, source, _ = made("llama")
    student = with_layers(source, tmp_path / "student", [0, 2, 5], "model.layers.")

    def found() -> tuple[int, ...]:
        return matching_blocks(*(open_model(open_checkpoint(str(p))) for p in (student, source)))

    assert found() == (1, 4, 7)
    tensors = load_file(student / "model.safetensors")
    for kept, blocks in (("[0, 2, 5]", (1, 4, 7)), ("[0, 1, 2]", (0, 1, 7))):
        header = {"format": "pt", "qconvert.kept": f"{{'layers': {kept}, 'ffn': 512}}"}
        save_file(tensors, student / "model.safetensors", header)
        assert found() == blocks
    header = {"format": "pt", "qconvert.kept": "{'layers': [0, 9, 3], 'ffn': 512}"}
    save_file(tensors, student / "model.safetensors", header)
    assert found() == (1, 4, 7)


def settings_like(source: Path, path: Path, **others: Any) -> Path:
    config = json.loads((source / "config.json").read_text())
    path.write_text(json.dumps(config | others))
    return path


@pytest.mark.parametrize("width", [256, 128])
def test_a_fresh_student_has_its_teachers_tokens(made, tmp_path, width):
    teacher, source, _ = made("llama")
    own = open_model(open_checkpoint(str(source)))
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "intermediate_size": 256}
    config = settings_like(source, tmp_path / "config.json", **sizes)
    states = [
        load_file(fresh_student(config, own, tmp_path / str(k), seed).path / "model.safetensors")
        for k, seed in enumerate((0, 0, 1))
    ]
    tables = [states[0][n].double() for n in ("model.embed_tokens.weight", "lm_head.weight")]
    wanted = [m.weight.detach().double() for m in (teacher.model.embed_tokens, teacher.lm_head)]
    if width == 256:
        assert all(map(torch.allclose, tables, wanted))
    # The best that tables of that width can do for both: their largest singular values are left.
    both = torch.cat([table / table.norm() for table in wanted])
    lost = torch.linalg.svdvals(both)[width:].square().sum()
    left = [float((t.norm() / w.norm()) ** 2) for t, w in zip(tables, wanted, strict=True)]
    assert sum(left) == pytest.approx(2 - float(lost), rel=1e-5)
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name])
        is_drawn = "proj" in name
        assert torch.equal(states[0][name], states[2][name]) != is_drawn
    student = fresh_student(config, own, tmp_path / "0", 0)
    done = distill(
        *(open_model(student), own, SAMPLE.tokens, tmp_path / "0", replace(HOW, tokens=1024)),
        Run(2, Silent(), "cpu"),
    )
    assert done.outcome.after < done.outcome.before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vocab_size": 7}, "a vocabulary of 7 tokens"),
        ({"hidden_size": 512}, "hidden_size of 512"),
        ({"num_attention_heads": "x"}, "cannot build"),
        ({"intermediate_size": 1 << 40}, "of memory"),
    ],
)
def test_a_fresh_student_that_cannot_be_is_refused(made, tmp_path, changed, message):
    _, source, _ = made("llama")
    own = open_model(open_checkpoint(str(source)))
    config = settings_like(source, tmp_path / "config.json", **changed)
    with pytest.raises(QconvertError, match=message):
        fresh_student(config, own, tmp_path / "out", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_what_is_in_the_way(made, tmp_path):
    """What was made of something else is replaced where that is asked for; nothing else is."""
    _, source, _ = made("llama")
    student = with_layers(source, tmp_path / "student", [0, 7], "model.layers.")
    models = [open_model(open_checkpoint(str(one))) for one in (student, source)]
    out, how = tmp_path / "taught", Distilling(64, batch=64)
    forced = Run(2, Silent(), "cpu", force=True)
    taught(student, source, out, how)
    with pytest.raises(OutputError, match="is not empty"):
        taught(student, source, out, how)
    distill(*models, SAMPLE.tokens, out, replace(how, rate=0.05), forced)
    with pytest.raises(UsageError, match="is one of the two models"):
        distill(*models, SAMPLE.tokens, student, how, forced)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="was not made by this program"):
        distill(*models, SAMPLE.tokens, tmp_path / "mine", how, forced)
