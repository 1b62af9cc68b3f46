"""`distill`: a smaller model, trained to say what a larger one says.

    run the teacher once         and keep what it foretells of every token
    train the student            weights of blocks and norms (`run.training.pupil`)
    write a directory            of the student's own names, shapes and dtypes

Token embeddings and output projection stay: they are what the student has in common with the
teacher, and the rest is trained around them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.checkpoint import fingerprint
from qconvert.containers.directory import check_directory, check_own
from qconvert.containers.folder import work_folder
from qconvert.containers.store import Store, open_store
from qconvert.errors import PlanError, UnsupportedError, UsageError
from qconvert.forward.walk import Place, Walk
from qconvert.forward.weights import pieces_of
from qconvert.model.open import Model
from qconvert.plan.recipe import Recipe
from qconvert.run.by_block import in_order
from qconvert.run.executor import library_threads
from qconvert.run.fitting import linear_algebra_on
from qconvert.run.stream import Result
from qconvert.run.training.budget import enough_memory, within
from qconvert.run.training.lesson import Lesson
from qconvert.run.training.loop import Outcome, train
from qconvert.run.training.loss import DIVERGENCE, Losses
from qconvert.run.training.matching import matching_blocks
from qconvert.run.training.pupil import Taught, adapted_of, pupil_of
from qconvert.run.training.schedule import make_schedule
from qconvert.run.training.teacher import teach
from qconvert.run.transform import Change, plan_transform, transform
from qconvert.run.types import Run


@dataclass(frozen=True)
class Distilling:
    """How a student is trained.

    Attributes:
        tokens: to learn from, in all rounds through the sample together.
        hours: to learn in, in place of so many tokens.
        rate: the highest, in parts of the mean size of a tensor's weights.
        batch: tokens of a step.
        seed: of the order of the windows.
        lora: the rank of what is added to each matrix; None trains the matrices themselves.
        losses: what is learnt beside the teacher's distributions.
    """

    tokens: int
    hours: float | None = None
    rate: float = 0.01
    batch: int = 4096
    seed: int = 0
    lora: int | None = None
    losses: Losses = DIVERGENCE

    @property
    def words(self) -> str:
        """What the header of an output says of it."""
        much = f"{self.tokens} tokens" if self.hours is None else f"{self.hours:g} hours"
        words = [f"{much}; rate {self.rate:g}, batch {self.batch}, seed {self.seed}"]
        if self.lora is not None:
            words.append(f"rank {self.lora}")
        return ", ".join([*words, *self.losses.words])


@dataclass(frozen=True)
class Distilled:
    """What was written, what came of the training, and on which text, where that has a name."""

    result: Result
    outcome: Outcome
    data: str = ""


def distill(
    student: Model, teacher: Model, tokens: np.ndarray, path: Path, how: Distilling, run: Run
) -> Distilled:
    """Train a student and write it.

    Args:
        tokens: int [windows, window], of the tokenizer that both have.
        path: of the directory.

    Raises:
        UnsupportedError: the student is no Hugging Face directory, one model is an encoder and the
            other is not, or weights are stored in an unusual way.
        PlanError: a GPU's memory does not do, or encoders have other widths.
        OutputError: something is there already, or no room.
        WeightError: see `train`.
    """
    check_place(path, (student.checkpoint.path, teacher.checkpoint.path), run)
    _check_pair(student, teacher, how)
    ordered, shown = in_order(tokens)
    work = path.with_name(f"{path.name}.distill")
    place = Place(work_folder(work), run.device)
    walk = Walk(student, ordered, replace(place, states="student"))
    walk.check_alone("taught")
    digest = sha256(repr((walk.identity, fingerprint(teacher.checkpoint), how)).encode())
    cores = library_threads()
    digest.update(repr(cores).encode())
    with linear_algebra_on(cores), open_store(work, digest.hexdigest()) as store:
        run.watcher.begin(tokens.size * 2, 0)
        kept = matching_blocks(student, teacher) if how.losses.hidden else ()
        aim = teach(teacher, ordered, place, store, lambda count: None, kept)
        lesson = Lesson(walk, shown, aim, how.losses)
        pupil: Taught = pupil_of(lesson, how.rate)
        if how.lora is not None:
            pupil = adapted_of(lesson, how.rate, how.lora, how.seed)
        schedule = make_schedule(how.tokens, how.batch, shown, tokens.shape[1], how.seed)
        unseen = len(ordered) - shown
        with enough_memory(walk.device):
            schedule = within(pupil, schedule, unseen, how.hours, pupil.memory, store, run.watcher)
            outcome = train(pupil, schedule, store, run.watcher)
        run.watcher.note(outcome.words)
        made_by = {
            "qconvert.distilled": how.words,
            "qconvert.teacher": teacher.checkpoint.source,
            "qconvert.teacher.fingerprint": fingerprint(teacher.checkpoint),
        }
        changes = _changes(pupil, store) if outcome.step else {}
        change = Change(changes, made_by)
        if run.force:
            plan_transform(student.checkpoint, Recipe("copy", output=path), change).target.clear()
        result = transform(
            student.checkpoint, path, change, threads=run.threads, watcher=run.watcher
        )
        store.delete()
    return Distilled(result, outcome)


def check_place(path: Path, others: Sequence[Path], run: Run) -> None:
    """Refuse an output at once that could not be written at the end.

    Args:
        others: where the models are.

    Raises:
        UsageError: it would take the place of one of them.
        OutputError: something is there already; with `run.force`, what this program did not make.
    """
    if path.resolve() in {other.resolve() for other in others}:
        raise UsageError(f"{path} is one of the two models", "name another output with -o")
    if run.force:
        check_own(path)
    else:
        check_directory(path)


def _check_pair(student: Model, teacher: Model, how: Distilling) -> None:
    if student.checkpoint.container != "huggingface":
        raise UnsupportedError(
            f"{student.checkpoint.source} is no Hugging Face directory",
            "make one of it first: qconvert export",
        )
    if student.family.encoder != teacher.family.encoder:
        raise UnsupportedError("one of the two writes texts, and the other embeds them")
    widths = [one.config.get("hidden_size") for one in (student, teacher)]
    if how.losses.next_token and student.family.encoder:
        raise UnsupportedError("--next-token is for models that write texts, not for encoders")
    if how.losses.hidden and widths[0] != widths[1]:
        raise PlanError(
            f"hidden states of {student.checkpoint.source} have {widths[0]} numbers, those of "
            f"{teacher.checkpoint.source} {widths[1]}",
            "--hidden is for a student of the teacher's width, as `prune --layers` makes it",
        )
    if student.family.encoder and widths[0] != widths[1]:
        raise PlanError(
            f"the student's embeddings have {widths[0]} numbers, and the teacher's {widths[1]}",
            "take a student of the same width and fewer layers",
        )


def _changes(pupil: Taught, store: Store) -> Mapping[str, Any]:
    """All that was trained, in the store, under the names that the checkpoint has."""
    source = pupil.lesson.walk.source
    found = []
    for name, tensor in pupil.made():
        values = tensor.float().cpu().numpy()
        flat, done = values.reshape(-1), 0
        for piece in pieces_of(source, name, values.shape):
            if piece.is_computed or piece.order:
                raise UnsupportedError(f"{piece.name} is not stored as transformers has it")
            part = flat[done : done + piece.elements].reshape(piece.shape)
            stored = piece.parts[0].source
            store.put(stored, {stored: np.ascontiguousarray(part)})
            found.append(stored)
            done += piece.elements
    return {name: store.tensors[name] for name in found}
