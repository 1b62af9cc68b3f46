"""A slab of rows becomes what is written of it, and nothing that is lost on the way is silent.

Weights may be no numbers, or lie beyond what a format can hold: scales are F16 in most of ggml's
formats, and a block whose scale overflows reads back as infinite, or far too small.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qconvert.checkpoint import TensorInfo
from qconvert.checkpoint.dtypes import decode
from qconvert.errors import WeightError
from qconvert.formats.floats import measure
from qconvert.formats.safetensors.scales import LARGEST
from qconvert.formats.types import Arrays
from qconvert.model.assemble import assemble, assemble_bytes
from qconvert.plan.blocks import Blocks
from qconvert.plan.types import Coding, Plan
from qconvert.run.slabs import Slab

ORDINARY = (2.0**-10, 2.0**15)
"""Where the largest weight of a slab lies in between, every format can hold it."""

LOST = 0.9
"""A row is lost if so much of its norm is; the coarsest formats stay below half."""


class Made(NamedTuple):
    """What is written for a slab.

    Attributes:
        pieces: an array for each slot of the tensor.
        nonfinite: weights that were NaN or infinite.
        clipped: weights that were beyond the format's range.
        vanished: weights that were too small for it, and are zeros now.
        exact: what is written gives all weights back to the last bit.
    """

    pieces: Arrays
    nonfinite: int = 0
    clipped: int = 0
    vanished: int = 0
    exact: bool = False

    def losses(self, format_: str) -> Iterator[tuple[int, str]]:
        """How many weights suffered, and what."""
        yield self.nonfinite, "weights are NaN or infinite"
        yield self.clipped, f"weights were beyond {format_}, and are clipped"
        yield self.vanished, f"weights are too small for {format_}: they are zeros now"


@dataclass(frozen=True)
class SlabJob:
    """All that a slab is made of but the bytes: no more of the plan, for it may travel.

    Attributes:
        sources: the checkpoint's tensors that the slab's has rows of, by name.
        allow_nan: as the recipe has it.
        peak: the largest absolute value of the tensor's peers; 0 without any.
    """

    slab: Slab
    sources: Mapping[str, TensorInfo]
    allow_nan: bool
    peak: float = 0.0


def job_of(plan: Plan, slab: Slab, peak: float = 0.0) -> SlabJob:
    tensors = plan.checkpoint.tensors
    sources = {part.source: tensors[part.source] for part in slab.tensor.map.parts}
    return SlabJob(slab, sources, plan.recipe.allow_nan, peak)


def make(job: SlabJob) -> Made:
    """What is written for a slab.

    Raises:
        WeightError: weights are NaN, infinite or too large for the format, and the recipe does
            not allow it.
    """
    slab, sources, peak, allowed = job.slab, job.sources, job.peak, job.allow_nan
    tensor, coding, name = slab.tensor, slab.tensor.coding, slab.tensor.name
    if not slab.weights:
        return Made((np.empty(0, np.uint8),) * len(tensor.slots))
    stored = None
    if coding.moved:
        stored = assemble_bytes(tensor.map, sources, slab.start, slab.stop)
        raw = stored.reshape(slab.stop - slab.start, -1)
        rows = decode(tensor.format, raw, tensor.map.columns)
    else:
        rows = assemble(tensor.map, sources, slab.start, slab.stop)
    nonfinite, largest = measure(rows)
    if nonfinite and not allowed:
        raise WeightError(
            f"{name} holds weights that are NaN or infinite",
            "the checkpoint is damaged; --allow-nan goes on all the same",
        )
    if stored is not None:
        return Made(
            (stored,), nonfinite, exact=any(info.codes is not None for info in sources.values())
        )
    if nonfinite and not coding.holds_nan:
        rows = np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    prepared = coding.prepare(rows, slab.start)
    if prepared is not rows:
        _, largest = measure(prepared)
    clipped = vanished = 0
    if largest and not ORDINARY[0] < largest < ORDINARY[1]:
        lost = _lost(coding, prepared, slab.start, peak)
        if largest < ORDINARY[0]:
            vanished = int(np.count_nonzero(prepared[lost]))
        elif lost.any() and not allowed:
            raise WeightError(
                f"{name} holds a weight of {largest:g}, beyond {tensor.format}",
                "choose bf16 or f32 for it (--override), or clip such weights with --allow-nan",
            )
        elif lost.any():
            prepared, clipped = _clip(coding, prepared, slab.start, peak, lost)
    pieces = coding.make(prepared, slab.start, peak)
    exact = isinstance(coding, Blocks) and coding.keeps(prepared, pieces)
    return Made(pieces, nonfinite, clipped, vanished, exact)


def largest_weight(job: SlabJob) -> float:
    """The largest finite absolute value of a slab, as it is quantized."""
    slab = job.slab
    rows = assemble(slab.tensor.map, job.sources, slab.start, slab.stop)
    return measure(np.ascontiguousarray(slab.tensor.coding.prepare(rows, slab.start)))[1]


def _lost(coding: Coding, x: np.ndarray, start: int, peak: float) -> np.ndarray:
    """Which rows read back as something else, bool [rows]."""
    with np.errstate(all="ignore"):
        finite = np.isfinite(x)
        x64 = np.where(finite, x, 0).astype(np.float64)
        off = np.where(finite, coding.read_back(x, start, peak), 0) - x64
        # NaN compares as false, and counts as lost.
        kept: np.ndarray = np.linalg.norm(off, axis=1) <= LOST * np.linalg.norm(x64, axis=1)
    return ~kept


def _clip(
    coding: Coding, x: np.ndarray, start: int, peak: float, lost: np.ndarray
) -> tuple[np.ndarray, int]:
    """The rows with the lost ones clipped as little as it takes, and how many weights that is."""
    for limit in (LARGEST["BF16"], LARGEST["F16"], ORDINARY[1]):
        bound = np.where(lost, np.float32(limit), np.float32(np.inf))[:, None]
        clipped = np.clip(x, -bound, bound)
        if not _lost(coding, clipped, start, min(peak, limit)).any():
            break
    return clipped, int(np.count_nonzero((clipped != x) & np.isfinite(x)))
