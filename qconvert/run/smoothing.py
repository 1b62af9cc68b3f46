"""Inputs that llama.cpp rounds, divided by channel so that they round better.

llama.cpp's CPU code rounds what goes into a product to 8 bits, 256 numbers with one scale
(`qconvert.formats.ggml.inputs`). Where a few channels are many times larger than the others, little
is left of these, and in a file of 6 bits that costs more than the rounding of the weights. A norm
in front of the product can take up a division of its channels, and the columns of the weights the
multiplication; the model's function stays, and a norm is stored in float32 all the same.

Several divisors are tried on tokens that nothing was fitted to, with the inputs rounded as
llama.cpp does and some rows of the weights quantized; the best is taken if it beats none at all.

Sources: G. Xiao et al., "SmoothQuant", arXiv 2211.10438; J. Lin et al., "AWQ", arXiv 2306.00978
(divisors that are powers of an input's size).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from qconvert.algorithms import ALGORITHMS
from qconvert.containers.store import Store
from qconvert.formats.ggml.inputs import input_type, round_input
from qconvert.formats.quantize import quantize
from qconvert.formats.types import Format, Seen
from qconvert.model.folding import folds
from qconvert.model.open import Model
from qconvert.plan.blocks import Blocks, Factors
from qconvert.plan.types import TensorPlan
from qconvert.run.fitting import (
    About,
    Bench,
    Task,
    alone,
    linear_algebra_on,
    prepared,
    seen_divided,
    spread,
)

TOKENS = 1024
"""On which divisors are tried."""

ROWS = 64
"""Of each weight that are quantized for that."""

GAIN = 0.95
"""Of the error without any, what has to be left at most."""

TINY = 1e-30


@dataclass(frozen=True)
class Joint:
    """An input that can be divided.

    Attributes:
        makers: a norm's weight, and its bias where it has one, as they are planned.
        weights: the GGUF names of what the input is multiplied with.
        rounded: what the input is rounded to, "Q8_K" or "Q8_0".
    """

    makers: tuple[TensorPlan, ...]
    weights: tuple[str, ...]
    rounded: str


def joint_of(
    model: Model,
    block: int,
    group: Sequence[str],
    tasks: Mapping[str, Sequence[Task]],
    norms: Mapping[str, TensorPlan],
) -> Joint | None:
    """An input of a block that can be divided; None for one that cannot: another maker than a norm,
    or something besides has the same input, or is not quantized.

    Args:
        group: the GGUF names of the weights that it is multiplied with.
        tasks: how they are quantized.
        norms: tensors in float32, by name; none where what reads the file does not round.
    """
    for fold in folds(model.family.folds, block, {*tasks, *norms}):
        maker = f"{fold.maker}.weight"
        names = tuple(f"{stem}.weight" for stem in fold.weights)
        own = [task for name in names for task in tasks.get(name, ())]
        if not fold.is_norm or fold.routers or maker not in norms or {*names} != {*group}:
            continue
        codings = [task.tensor.coding for task in own]
        kinds = {input_type(c.format) for c in codings if isinstance(c, Blocks)}
        if len(own) == len(names) and len(kinds) == 1 and kinds <= {"Q8_K", "Q8_0"}:
            both = (norms[name] for name in (maker, f"{fold.maker}.bias") if name in norms)
            return Joint(tuple(both), names, kinds.pop())
    return None


def divisors(
    bench: Bench, store: Store, joint: Joint, tasks: Sequence[Task], about: About | None, x: Any
) -> np.ndarray | None:
    """By what an input's channels are divided, float32 [columns]; None for nothing that helps. It
    is in the store then, with the norm as it becomes.

    Args:
        tasks: of the joint's weights.
        about: of the input.
        x: tokens that nothing was fitted to, [tokens, columns].
    """
    mark = f"divisors of {joint.weights[0]}"
    if mark not in store:
        best = None if about is None else _best(bench, joint, tasks, about, x)
        if best is not None:
            for maker in joint.makers:
                own = prepared(bench.checkpoint, maker, 0, maker.map.rows)
                changed = (own.reshape(-1) / best).astype(np.float32)
                store.put(maker.name, {maker.slots[0].name: changed})
        store.put(mark, {mark: np.empty(0, np.float32) if best is None else best})
    found = np.array(store.get(mark)[mark])
    return found if found.size else None


def multiplied(task: Task, divisor: np.ndarray) -> Task:
    """A task whose weights are multiplied by what their input is divided by."""
    coding = task.tensor.coding
    assert isinstance(coding, Blocks)
    changed = replace(
        coding,
        factors=Factors(divisor),
        importance=None if coding.importance is None else coding.importance / divisor**2,
        means=None if coding.means is None else coding.means / divisor,
    )
    return replace(task, tensor=replace(task.tensor, coding=changed))


def _tried(size: np.ndarray) -> Iterator[np.ndarray]:
    """Divisors, each with 1 as its geometric mean.

    Args:
        size: of each channel, its root mean square over the median.
    """
    for power in (0.2, 0.35, 0.5):
        yield size**power
    for least, power in ((2, 0.5), (2, 1.0), (4, 1.0), (8, 1.0)):
        yield np.maximum(size / least, 1) ** power


def _best(
    bench: Bench, joint: Joint, tasks: Sequence[Task], about: About, x: Any
) -> np.ndarray | None:
    import torch

    size = np.sqrt(about.seen.square)
    middle = np.median(size[size > 0]) if (size > 0).any() else 0.0
    if not middle > 0 or not len(x):
        return None
    size = np.where(size > 0, size / middle, 1.0).astype(np.float64)
    tried = [np.ones_like(size), *_tried(size)]
    tried = [(one / np.exp(np.log(one).mean())).astype(np.float32) for one in tried]
    weights = [_some_rows(bench, task) for task in tasks]
    x = x.float()
    with linear_algebra_on(1):
        trials = [
            _Trial(task.format, task.algorithm, w, x @ torch.from_numpy(w.T))
            for task, w in zip(tasks, weights, strict=True)
        ]
        error = partial(_error, joint.rounded, x, about.seen, trials)
        errors = list(bench.executor.map(error, tried))
    best = int(np.argmin(errors))
    return tried[best] if errors[best] < GAIN * errors[0] else None


@dataclass(frozen=True)
class _Trial:
    """Some rows of a weight, how they are quantized, and what they give, [tokens, rows]."""

    format: Format
    algorithm: str
    rows: np.ndarray
    wanted: Any


def _error(
    rounded: str, x: Any, seen: Seen, trials: Sequence[_Trial], divisor: np.ndarray
) -> float:
    """Of the outputs, relative to them, summed over the weights."""
    import torch

    alone()
    y = round_input(x / torch.from_numpy(divisor), rounded)
    own = seen_divided(seen, divisor)
    total = 0.0
    for trial in trials:
        made = quantize(trial.format, trial.rows * divisor, own, None, ALGORITHMS[trial.algorithm])
        off = y @ torch.from_numpy(trial.format.dequantize(made).T) - trial.wanted
        total += float(off.square().mean() / (trial.wanted.square().mean() + TINY))
    return total


def _some_rows(bench: Bench, task: Task) -> np.ndarray:
    """Rows of a weight, spread evenly."""
    rows = task.tensor.map.rows
    own = prepared(bench.checkpoint, task.tensor, 0, rows)
    return np.ascontiguousarray(own[spread(rows, ROWS)])
