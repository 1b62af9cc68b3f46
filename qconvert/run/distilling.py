"""`distill`: a smaller model, trained to say what a larger one says.

    run the teacher once         and keep what it foretells of every token
    train the student            weights of blocks and norms, in float32 (`run.training`)
    write a directory            of the student's own names, shapes and dtypes

Token embeddings and output projection stay: they are what the student has in common with the
teacher, and the rest is trained around them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.checkpoint import fingerprint
from qconvert.containers.directory import check_directory
from qconvert.containers.folder import work_folder
from qconvert.containers.store import Store, open_store
from qconvert.errors import PlanError, UnsupportedError
from qconvert.forward.skeleton import put_tensor
from qconvert.forward.walk import Place, Walk
from qconvert.forward.weights import pieces_of, read_parameter
from qconvert.model.open import Model
from qconvert.run.by_block import in_order
from qconvert.run.executor import library_threads
from qconvert.run.fitting import linear_algebra_on
from qconvert.run.stream import Result
from qconvert.run.training.budget import enough_memory, within
from qconvert.run.training.lesson import Lesson
from qconvert.run.training.loop import Outcome, train
from qconvert.run.training.schedule import make_schedule
from qconvert.run.training.teacher import teach
from qconvert.run.transform import Change, transform
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
    """

    tokens: int
    hours: float | None = None
    rate: float = 0.01
    batch: int = 4096
    seed: int = 0

    @property
    def words(self) -> str:
        """What the header of an output says of it."""
        much = f"{self.tokens} tokens" if self.hours is None else f"{self.hours:g} hours"
        return f"{much}; rate {self.rate:g}, batch {self.batch}, seed {self.seed}"


@dataclass
class Pupil:
    """A `Trainee`: all weights of a model's blocks, and its norms.

    Attributes:
        weights: float32, by transformers' names.
        places: the modules and attributes where they belong.
    """

    lesson: Lesson
    weights: Mapping[str, Any]
    places: Mapping[str, tuple[Any, str]]
    rate: float

    @property
    def tokens(self) -> int:
        return self.lesson.tokens

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self.weights

    @property
    def rates(self) -> dict[str, float]:
        """In the size of each tensor's weights as they were: `_size`."""
        return {name: self.rate * size for name, size in self._sizes.items()}

    def __post_init__(self) -> None:
        self._sizes = {name: _size(tensor) for name, tensor in self.weights.items()}

    @property
    def memory(self) -> int:
        """About how many bytes it all takes: weights, gradients and two moments."""
        found: int = self.lesson.memory + 16 * sum(w.numel() for w in self.weights.values())
        return found

    def learn(self, windows: np.ndarray) -> float:
        """See `Trainee`."""
        return self.lesson.learn(self._install, windows)

    def judge(self) -> float:
        """See `Trainee`."""
        return self.lesson.judge(self._install)

    def _install(self) -> None:
        import torch

        dtype = getattr(torch, self.lesson.walk.dtype)
        for name, tensor in self.weights.items():
            put_tensor(*self.places[name], tensor.to(dtype))


def _size(tensor: Any) -> float:
    """The root of the mean square of some weights; of none that differ from 0, a usual one."""
    return float(tensor.detach().square().mean().sqrt()) or 0.02


@dataclass(frozen=True)
class Distilled:
    """What was written, and what came of the training."""

    result: Result
    outcome: Outcome


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

    check_directory(path)
    _check_pair(student, teacher)
    ordered, shown = in_order(tokens)
    work = path.with_name(f"{path.name}.distill")
    place = Place(work_folder(work), run.device)
    walk = Walk(student, ordered, replace(place, states="student"))
    digest = sha256(repr((walk.identity, fingerprint(teacher.checkpoint), how)).encode())
    cores = library_threads()
    digest.update(repr(cores).encode())
    with linear_algebra_on(cores), open_store(work, digest.hexdigest()) as store:
        run.watcher.begin(tokens.size * 2, 0)
        aim = teach(teacher, ordered, place, store, lambda count: None)
        pupil = pupil_of(Lesson(walk, shown, aim), how.rate)
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
        result = transform(
            student.checkpoint,
            path,
            Change(changes, made_by),
            threads=run.threads,
            watcher=run.watcher,
        )
        store.delete()
    return Distilled(result, outcome)


def pupil_of(lesson: Lesson, rate: float) -> Pupil:
    """All that is trained of a model: its blocks and the norms behind them."""
    walk = lesson.walk
    skeleton = walk.skeleton
    places: dict[str, tuple[Any, str]] = {}
    for index, block in enumerate(lesson.blocks):
        for inner, module in block.module.named_modules():
            for attribute, _ in module.named_parameters(recurse=False):
                name = ".".join(filter(None, (inner, attribute)))
                places[f"{skeleton.blocks_name}.{index}.{name}"] = (module, attribute)
    for name in skeleton.parameters_beside_blocks():
        outer, _, attribute = name.rpartition(".")
        places[name] = (skeleton.model.get_submodule(outer), attribute)
    weights = {}
    for name, (module, attribute) in places.items():
        shape = tuple(getattr(module, attribute).shape)
        read = read_parameter(walk.source, name, shape, "float32")
        weights[name] = read.to(walk.device).requires_grad_()
    return Pupil(lesson, weights, places, rate)


def _check_pair(student: Model, teacher: Model) -> None:
    if student.checkpoint.container != "huggingface":
        raise UnsupportedError(
            f"{student.checkpoint.source} is no Hugging Face directory",
            "make one of it first: qconvert export",
        )
    if student.family.encoder != teacher.family.encoder:
        raise UnsupportedError("one of the two writes texts, and the other embeds them")
    widths = [one.config.get("hidden_size") for one in (student, teacher)]
    if student.family.encoder and widths[0] != widths[1]:
        raise PlanError(
            f"the student's embeddings have {widths[0]} numbers, and the teacher's {widths[1]}",
            "take a student of the same width and fewer layers",
        )


def _changes(pupil: Pupil, store: Store) -> Mapping[str, Any]:
    """All that was trained, in the store, under the names that the checkpoint has."""
    source = pupil.lesson.walk.source
    found = []
    for name, tensor in pupil.weights.items():
        values = tensor.detach().float().cpu().numpy()
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
