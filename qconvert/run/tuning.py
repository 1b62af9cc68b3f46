"""`tune`: a quantized file, brought nearer to the original by training what it stores.

quantize                     with feedback, as `quantize` does
run the original once        and keep what it foretells of every token
train                        scales, minima and norms, or codes too (`run.training`)
write the file               of the same bytes, with what helps on windows that were not shown
"""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from qconvert.algorithms.tune import tuned
from qconvert.containers.folder import work_folder
from qconvert.containers.store import Store, open_store
from qconvert.containers.target import Target, paths_of
from qconvert.errors import PlanError, UnsupportedError
from qconvert.formats.safetensors.scales import rounded, stored
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import Model, open_model
from qconvert.plan.algorithms import first_matrix, gguf_name, is_elsewhere, stored_format
from qconvert.plan.names import names_in_gguf
from qconvert.plan.safetensors.recipe import scheme_of
from qconvert.plan.safetensors.schemes import is_mlx, is_scheme
from qconvert.plan.types import Plan, TensorPlan
from qconvert.run.by_block import in_order
from qconvert.run.executor import library_threads
from qconvert.run.fitting import linear_algebra_on
from qconvert.run.outputs import found, in_the_way, is_current, write_outputs
from qconvert.run.stream import Result
from qconvert.run.training.budget import enough_memory, within
from qconvert.run.training.lesson import Lesson
from qconvert.run.training.loop import Outcome, train
from qconvert.run.training.schedule import make_schedule
from qconvert.run.training.start import Start, changed, write_start
from qconvert.run.training.student import Matrix, Norm, Student
from qconvert.run.training.teacher import teach
from qconvert.run.types import Run

RUN = 16
"""Tokens in a row that tell that two windows are of one text."""


@dataclass(frozen=True)
class Tuning:
    """How an output is tuned.

    Attributes:
        tokens: to learn from, in all rounds through the sample together.
        hours: to learn in, in place of so many tokens.
        rate: the highest, in parts of a scale.
        batch: tokens of a step.
        weights: whether codes are trained too.
        seed: of the order of the windows.
    """

    tokens: int
    hours: float | None = None
    rate: float = 0.001
    batch: int = 2048
    weights: bool = False
    seed: int = 0

    @property
    def words(self) -> dict[str, str]:
        """What the header of an output says of it."""
        what = "weights" if self.weights else "scales, minima and norms"
        much = f"{self.tokens} tokens" if self.hours is None else f"{self.hours:g} hours"
        how = f"rate {self.rate:g}, batch {self.batch}, seed {self.seed}"
        return {"qconvert.tuned": f"{what}; {much}; {how}"}


@dataclass(frozen=True)
class Learnt:
    """What was written, as planned, how it was tuned, and what came of the training; None where the
    output was there already, or is only planned."""

    plan: Plan
    tuning: Tuning
    result: Result
    outcome: Outcome | None


def tune(
    model: Model,
    plan: Plan,
    path: Path,
    tuning: Tuning,
    run: Run,
    more: np.ndarray | None = None,
) -> Learnt:
    """Tune an output.

    Args:
        model: the original.
        plan: of the quantized file to begin with; see `training.start.beside`.
        path: of the output.
        more: int [windows, window], to learn from in place of the calibration's, to which feedback
            has fitted the weights already.

    Raises:
        UnsupportedError: a type of MLX.
        PlanError: there is no sample, a GPU's memory does not do, or nothing can be trained.
        Also what `write_outputs` and `train` raise.
    """

    if is_mlx(plan.recipe.type):
        raise UnsupportedError(
            f"{plan.recipe.type} cannot be tuned: directories for MLX are not read back here",
            "tune a GGUF type or a scheme of safetensors",
        )
    target = target_of(plan, path, tuning, more)
    if is_current(target):
        run.watcher.note(f"up to date: {path}")
        there = replace(plan, target=target)
        return Learnt(there, tuning, found(there), None)
    if target.occupied and not run.force:
        raise in_the_way([path])
    if not target.occupied:
        target.check()
    start = write_start(plan, run)
    with linear_algebra_on(library_threads()), enough_memory(run.device):
        learnt = _tune(model, start, target, tuning, run, more)
    start.delete()
    return learnt


def planned(plan: Plan, path: Path, tuning: Tuning) -> Learnt:
    """What would be written: as many bytes as without tuning."""
    there = replace(plan, target=plan.target.elsewhere(path, tuning.words))
    return Learnt(there, tuning, Result(there, paths_of(there.target), plan.nbytes, 0.0, 0), None)


def target_of(plan: Plan, path: Path, tuning: Tuning, more: np.ndarray | None) -> Target:
    """The output, whose header says all that it is made by."""
    words = dict(tuning.words)
    if more is not None:
        digest = sha256(np.ascontiguousarray(more, "<i4").tobytes()).hexdigest()
        words["qconvert.tuned.sample"] = digest
    return plan.target.elsewhere(path, words)


def _tune(
    model: Model,
    start: Start,
    target: Target,
    tuning: Tuning,
    run: Run,
    more: np.ndarray | None,
) -> Learnt:
    tokens, shown = _windows(start.plan, more)
    work = target.path.with_name(f"{target.path.name}.tune")
    place = Place(work_folder(work), run.device)
    walk = Walk(open_model(start.checkpoint), tokens, replace(place, states="student"))
    walk.check_alone("tuned")
    watcher = run.watcher
    recipe = start.plan.recipe
    if is_scheme(recipe.type) and scheme_of(recipe).inputs is not None:
        watcher.note(f"{recipe.type}: weights are tuned as if inputs were not rounded")
    with open_store(work, _identity(walk, target)) as store:
        watcher.begin(tokens.size * len(walk), 0)

        def advance(count: int) -> None:
            watcher.advance(count, "the original")

        teacher = teach(model, tokens, place, store, advance)
        lesson = Lesson(walk, shown, teacher)
        student = Student(lesson, *trained(model, start, tuning, walk.device), tuning.rate)
        if not student.matrices:
            raise PlanError(
                f"{start.plan.recipe.type} has nothing that can be tuned",
                "its weights are plain numbers, or coded several at a time; choose another type",
            )
        schedule = within(
            student,
            make_schedule(tuning.tokens, tuning.batch, shown, tokens.shape[1], tuning.seed),
            len(tokens) - shown,
            tuning.hours,
            student.memory,
            store,
            watcher,
        )
        outcome = train(student, schedule, store, watcher)
        watcher.note(outcome.words)
        if outcome.step:
            _keep(student, store)
        target.clear()
        final = changed(start, target, store.tensors)
        result = write_outputs([final], run.threads, watcher, run.device)[0]
        store.delete()
    return Learnt(replace(start.plan, target=target), tuning, result, outcome)


def sample_of(plan: Plan) -> np.ndarray:
    """The tokens of its calibration, int [windows, window].

    Raises:
        PlanError: it has none, or none that is tuned on.
    """
    if plan.sample is None:
        raise PlanError(
            "tuning needs a calibration of this model with its tokens",
            "make one with `qconvert calibrate`, of two windows at least, and give it with -c",
        )
    return plan.sample


def _windows(plan: Plan, more: np.ndarray | None) -> tuple[np.ndarray, int]:
    """The windows, those for learning first, and how many these are."""
    tokens, shown = in_order(sample_of(plan))
    if more is None:
        return tokens, shown
    apart = more[~shares_text(more, tokens[shown:])]
    if not len(apart):
        raise PlanError(
            "all of the text is in the windows of the calibration that tuning is judged by",
            "name more text with --data, or leave it out",
        )
    return np.concatenate((apart, tokens[shown:])), len(apart)


def shares_text(windows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which windows have a run of `RUN` tokens that one of the others has, bool [windows]: what
    is learnt there says nothing of text that was not shown."""
    run = min(RUN, windows.shape[1])

    def runs(of: np.ndarray) -> np.ndarray:
        every = np.lib.stride_tricks.sliding_window_view(of, run, axis=1)
        flat = np.ascontiguousarray(every, np.int32).reshape(len(of), -1, run)
        return flat.view(f"V{4 * run}")[..., 0]

    known = {one.tobytes() for one in runs(others).reshape(-1)}
    found = [any(one.tobytes() in known for one in of) for of in runs(windows)]
    return np.array(found, bool)


def trained(
    model: Model, start: Start, tuning: Tuning, device: str
) -> tuple[dict[str, list[Matrix]], dict[str, Norm]]:
    """All that can be trained."""
    import torch

    names = names_in_gguf(model) if model.checkpoint.container != "gguf" else {}
    matrices: dict[str, list[Matrix]] = {}
    norms: dict[str, Norm] = {}
    for tensor in start.plan.tensors:
        format_ = None if is_elsewhere(tensor) else stored_format(tensor)
        if format_ is not None:
            made = tuned(
                format_,
                start.arrays(tensor, format_),
                codes=tuning.weights,
                device=device,
            )
            if made is not None:
                one = Matrix(tensor, first_matrix(tensor), made)
                matrices.setdefault(gguf_name(tensor), []).append(one)
        elif _is_norm(tensor):
            base = start.numbers(tensor)
            (name,) = names.get(tensor.name, [tensor.name])
            norms[name] = Norm(
                tensor, base, torch.zeros(base.shape, device=device, requires_grad=True)
            )
    for of in matrices.values():
        of.sort(key=lambda one: one.first)
    return matrices, norms


def _is_norm(tensor: TensorPlan) -> bool:
    is_plain = len(tensor.slots) == 1 and tensor.slots[0].dtype in ("F32", "BF16", "F16")
    is_gain = len(tensor.shape) == 1 and tensor.name.endswith("norm.weight")
    return is_plain and is_gain and not tensor.map.steps


def _keep(student: Student, store: Store) -> None:
    """Put all that was trained into the store, as it is to be written."""
    for matrix in student.every_matrix:
        names = [slot.name for slot in matrix.tensor.slots]
        store.put(matrix.tensor.name, dict(zip(names, matrix.tuned.arrays(), strict=False)))
    for norm in student.norms.values():
        (slot,) = norm.tensor.slots
        values = stored(rounded(norm.stored(), slot.dtype), slot.dtype)
        store.put(norm.tensor.name, {slot.name: values})


def _identity(walk: Walk, target: Target) -> str:
    """A digest of all that is learnt depends on; the header names the recipe and the tuning."""
    digest = sha256(repr((walk.identity, library_threads())).encode())
    for file in target.weight_files:
        digest.update(file.header())
    return digest.hexdigest()
