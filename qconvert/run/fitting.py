"""One matrix of a weight: what an algorithm makes of it, and whether that is kept.

    what it should become      the original's rows, corrected for what has drifted in front of it
    candidates                 what streaming writes, and what the algorithm makes
    the guard                  their errors on tokens that the algorithm was not shown

Linear algebra has one thread for each job of some rows, and always the same number otherwise: what
a library adds up may depend on its threads, and the bytes of a weight may not.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from qconvert.algorithms import ALGORITHMS
from qconvert.algorithms.damping import SHARE, factored
from qconvert.algorithms.drift import besides, best_strength, correction, retargeted
from qconvert.algorithms.guard import helps
from qconvert.calibration.moments import Drift, Moments
from qconvert.checkpoint import Checkpoint
from qconvert.formats.quantize import Algorithm, quantize, slab_of, stacked
from qconvert.formats.types import Arrays, Format, Seen, Weights
from qconvert.model.assemble import assemble
from qconvert.model.open import Model
from qconvert.plan.algorithms import FEEDBACK, factors_of
from qconvert.plan.types import Coding, TensorPlan
from qconvert.run.executor import Executor

NEAREST = "nearest"

Made = TypeVar("Made")

SLAB = 256
"""Rows of a weight that are quantized at a time, about: with fewer the time between kernels counts,
which only one thread has at a time."""

SLABS = 32
"""At most so many: more cores than that there are seldom."""

ROWS = 128
"""Rows that the guard takes together: a multiple of every format's `row_step`, but of those that
take all rows together."""

PIECE = 1 << 24
"""Weights of a table that are made at a time."""

JUDGED = 4
"""One slab of rows in so many is judged by the guard, but at least two."""

DRIFT_SHARE = 0.1
"""The damping of what corrects for drift: it follows the sample more closely than rounding does."""


@dataclass(frozen=True)
class Task:
    """A weight of a block, and how it is quantized.

    Attributes:
        tensor: as it is planned; of experts, all of a block or one.
        algorithm: a name in `ALGORITHMS`; "nearest" for what streaming would write.
        first: which matrix of the weight is the tensor's first.
    """

    tensor: TensorPlan
    format: Format
    algorithm: str = NEAREST
    first: int = 0

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def matrices(self) -> int:
        return self.tensor.map.rows // self.tensor.map.shape[-2]


@dataclass(frozen=True)
class About:
    """What was observed of the inputs of a matrix.

    Attributes:
        seen: of tokens that algorithms are shown, with the factor for feedback.
        smooth: the same, with that for drift.
        drift: of the same tokens; None where nothing is known of it.
        unseen, unseen_drift: of the tokens for the guard.
    """

    seen: Seen
    smooth: Seen
    drift: Drift | None
    unseen: Seen
    unseen_drift: Drift | None


class Some(NamedTuple):
    """Rows of a matrix, from `first` on."""

    first: int
    rows: Weights


@dataclass(frozen=True)
class Bench:
    """Where weights are made.

    Attributes:
        model: where their rows come from.
        executor: for jobs of some rows.
    """

    model: Model
    executor: Executor

    @property
    def checkpoint(self) -> Checkpoint:
        return self.model.checkpoint


def about_matrix(
    bench: Bench, name: str, matrix: int, both: tuple[Moments, Moments], is_table: bool = False
) -> About | None:
    """What the moments, of tokens shown and not shown, say of a matrix; None where no token reached
    it, or none of those for the guard did.

    Args:
        is_table: its rows are looked up besides.
    """
    own, other = (moments.of(name, matrix) for moments in both)
    if own is None or other is None:
        return None
    if is_table:
        own, other = with_lookups(own), with_lookups(other)
    drift, unseen_drift = (moments.drift_of(name, matrix) for moments in both)
    shares = (SHARE, DRIFT_SHARE) if drift else (SHARE,)
    made = [factored(own, share) for share in shares]
    return About(made[0], made[-1], drift, other, unseen_drift)


def with_lookups(seen: Seen) -> Seen:
    """What was seen of inputs, and as much again of each channel alike: a looked-up row's error
    counts by itself. With a tenth of it logits would be nearer by a sixth, and looked-up rows
    further from what they were by a fifth."""
    hessian = seen.hessian.clone()
    mean = hessian.diagonal().mean()
    hessian.diagonal().add_(mean)
    return seen._replace(square=seen.square + np.float32(mean.item()), hessian=hessian)


def spread(rows: int, most: int) -> np.ndarray:
    """The numbers of some rows, spread evenly: all, or so many."""
    return np.unique(np.linspace(0, rows - 1, min(most, rows)).astype(int))


def seen_divided(seen: Seen, divisor: np.ndarray) -> Seen:
    """What was seen of inputs, had their channels been divided: float32 [columns]."""
    hessian, factor = seen.hessian, seen.factor
    return seen._replace(
        square=seen.square / divisor**2,
        mean=None if seen.mean is None else seen.mean / divisor,
        hessian=None if hessian is None else hessian / _outer(divisor, hessian),
        factor=None if factor is None else factor * _beside(divisor, factor),
    )


def _beside(values: np.ndarray, matrix: Any) -> Any:
    """Numbers, where a matrix is."""
    import torch

    return torch.from_numpy(values).to(matrix.device)


def _outer(divisor: np.ndarray, matrix: Any) -> Any:
    row = _beside(divisor, matrix)
    return row.outer(row)


def _divided(about: About, divisor: np.ndarray) -> About:
    """The same of all that was observed."""

    def drift(one: Drift | None) -> Drift | None:
        if one is None:
            return None
        if one.output is not None:
            return Drift(output=one.output / _beside(divisor, one.output))
        return Drift(one.input / _outer(divisor, one.input))

    return replace(
        about,
        seen=seen_divided(about.seen, divisor),
        smooth=seen_divided(about.smooth, divisor),
        drift=drift(about.drift),
        unseen=seen_divided(about.unseen, divisor),
        unseen_drift=drift(about.unseen_drift),
    )


def make_matrix(bench: Bench, task: Task, matrix: int, about: About | None) -> tuple[Arrays, bool]:
    """What a matrix of a task's tensor becomes, and whether that is the algorithm's."""
    rows = task.tensor.map.shape[-2]
    start = matrix * rows
    about = about and _as_multiplied(about, task, start)
    return _make_rows(bench, task, start, start + rows, about)


def make_table(bench: Bench, task: Task, about: About | None) -> tuple[Arrays, list[bool]]:
    """What a task's table becomes, and of each piece of it whether that is the algorithm's. It is
    made in pieces, for it has a row for each token of the vocabulary."""
    rows, columns = task.tensor.map.shape
    step = max(PIECE // columns // ROWS, 1) * ROWS if task.format.row_step <= ROWS else rows
    parts = task.format.parts((rows, columns))
    pieces: list[Arrays] = []
    helped: list[bool] = []
    for start in range(0, rows, step):
        made, helps_here = _make_rows(bench, task, start, min(start + step, rows), about)
        pieces.append(slab_of(made, parts, (rows, columns), start == 0))
        helped.append(helps_here)
    return stacked(task.format, pieces, (rows, columns), step), helped


def _make_rows(
    bench: Bench, task: Task, start: int, stop: int, about: About | None
) -> tuple[Arrays, bool]:
    peak = peak_of(bench.checkpoint, task.tensor)
    x = prepared(bench.checkpoint, task.tensor, start, stop)
    if task.algorithm != NEAREST and about is not None:
        wanted = besides(x, about.unseen_drift) if about.unseen_drift else None
        target = _target(x, about, wanted) if task.algorithm == FEEDBACK else x
        algorithm = ALGORITHMS[task.algorithm]
        made = _made(bench, task.format, target, about.seen, peak or None, algorithm)
        if _helps(bench, task, x, made, about.unseen, wanted, start, peak):
            return made, True
    return _streamed(bench, task, x, start, peak), False


def _helps(
    bench: Bench,
    task: Task,
    x: Weights,
    made: Arrays,
    unseen: Seen,
    wanted: Any,
    start: int,
    peak: float,
) -> bool:
    """Whether what an algorithm has made beats what streaming would write, by some of the rows."""
    step = ROWS if task.format.row_step <= ROWS else max(len(x), 1)
    slabs = -(-len(x) // step)
    firsts = step * spread(slabs, max(slabs // JUDGED, 2))
    rows = np.concatenate([np.arange(first, min(first + step, len(x))) for first in firsts])
    read_back = partial(_some_read_back, task.tensor.coding, start, peak)
    base = np.concatenate(_jobs(bench, read_back, x, firsts, step))
    own = task.format.dequantize(made)[rows]
    return helps(own - x[rows], base - x[rows], unseen, None if wanted is None else wanted[rows])


def _as_multiplied(about: About, task: Task, start: int) -> About:
    """What was observed, for the rows from `start` on of a weight that is multiplied before it is
    quantized: its columns by what its input is divided by, its rows by what is divided behind
    it."""
    factors = factors_of(task.tensor)
    if factors is None:
        return about
    if factors.columns is not None:
        about = _divided(about, factors.columns)
    if factors.rows is not None:
        rows = factors.rows[start : start + task.tensor.map.shape[-2], None]
        about = replace(
            about,
            drift=_with_rows(about.drift, rows),
            unseen_drift=_with_rows(about.unseen_drift, rows),
        )
    return about


def _with_rows(drift: Drift | None, rows: np.ndarray) -> Drift | None:
    if drift is None or drift.output is None:
        return drift
    return Drift(output=drift.output * _beside(rows, drift.output))


def _target(x: Weights, about: About, wanted: Any) -> Weights:
    """The weight to be rounded: corrected for drift as far as that helps on other tokens."""
    if about.drift is None or wanted is None or about.smooth.factor is None:
        return x
    made = correction(x, about.smooth, about.drift)
    return retargeted(x, made, best_strength(made, about.unseen, wanted))


def _streamed(bench: Bench, task: Task, x: Weights, start: int, peak: float) -> Arrays:
    """What streaming would write."""
    step = _step(task.format, len(x))
    job = partial(_some_streamed, task.tensor.coding, start, peak)
    made = _jobs(bench, job, x, range(0, len(x), step), step)
    return stacked(task.format, made, (len(x), x.shape[1]), step)


def _made(
    bench: Bench, format_: Format, x: Weights, seen: Seen, peak: float | None, algorithm: Algorithm
) -> Arrays:
    """What an algorithm makes."""
    shape = (len(x), x.shape[1])
    step = _step(format_, len(x))
    job = partial(_some_made, format_, shape, seen, peak, algorithm)
    return stacked(format_, _jobs(bench, job, x, range(0, len(x), step), step), shape, step)


def _step(format_: Format, rows: int) -> int:
    """How many of so many rows are quantized at a time: the same for any number of threads, of
    which there are two mostly."""
    if format_.row_step > ROWS:
        return max(rows, 1)
    slabs = min(2 * max(round(rows / (2 * SLAB)), 1), SLABS)
    return max(-(-rows // slabs // format_.row_step), 1) * format_.row_step


def _some_read_back(coding: Coding, start: int, peak: float, some: Some) -> Weights:
    return coding.read_back(some.rows, start + some.first, peak)


def _some_streamed(coding: Coding, start: int, peak: float, some: Some) -> Arrays:
    return coding.make(some.rows, start + some.first, peak)


def _some_made(
    format_: Format,
    shape: tuple[int, int],
    seen: Seen,
    peak: float | None,
    algorithm: Algorithm,
    some: Some,
) -> Arrays:
    alone()
    made = quantize(format_, some.rows, seen, peak, algorithm)
    return slab_of(made, format_.parts(shape), shape, some.first == 0)


def _jobs(
    bench: Bench, job: Callable[[Some], Made], x: Weights, firsts: Iterable[int], step: int
) -> list[Made]:
    """What a job makes of so many rows from each of these on."""
    items = [Some(int(first), x[first : first + step]) for first in firsts]
    with linear_algebra_on(1):
        return list(bench.executor.map(job, items))


def alone() -> None:
    """One thread for torch: of a job, which may be in another process than who has it run."""
    import torch

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@contextmanager
def linear_algebra_on(threads: int) -> Iterator[None]:
    """So many threads for torch, and as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_of(checkpoint: Checkpoint, tensor: TensorPlan) -> float:
    """The largest absolute value over a tensor's peers; 0 without any."""
    rows = (prepared(checkpoint, peer, 0, peer.map.rows) for peer in tensor.peers)
    return max((float(np.abs(x).max(initial=0)) for x in rows), default=0.0)


def prepared(checkpoint: Checkpoint, tensor: TensorPlan, start: int, stop: int) -> Weights:
    rows = assemble(tensor.map, checkpoint.tensors, start, stop)
    return np.ascontiguousarray(tensor.coding.prepare(rows, start))
