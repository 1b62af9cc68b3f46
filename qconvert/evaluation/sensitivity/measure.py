"""Which tensors of a quantized file cost most: measured, by putting each alone into the original.

The original's blocks are walked once, with many variants of the hidden states on the way. Variant
k has gone through the original but for one part (a block, a tensor, the token embedding, the
output projection), whose weights were the file's. Behind the last block, each variant's
distributions are held against the original's: Kullback-Leibler divergence over the scored tokens.
One variant more has gone through the file's weights alone, so that the sum of the parts can be
set beside the whole.

Computed in float32, with weights dequantized; a file's quantized activations play no part here.
Memory holds two blocks, the two output projections and a batch; hidden states are on the disk,
8 * tokens * width bytes for each variant. The cost is about blocks^2 / 2 passes of the sample
through a block, and as many again for each tensor that is measured in every block: few tokens do
(4 windows of 256), for parts that matter differ by far more than the standard error.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from qconvert.checkpoint import Checkpoint
from qconvert.errors import UnsupportedError, UsageError
from qconvert.evaluation.divergence.summary import standard_error
from qconvert.evaluation.sensitivity.scores import divergences
from qconvert.evaluation.sensitivity.storage import Stored, of_block, stored_tensors
from qconvert.evaluation.sensitivity.walk import ALL, Grain, travel
from qconvert.forward.walk import Place
from qconvert.forward.weights import Parameters, find_parameters
from qconvert.model.mapping import OUTPUT_WEIGHT
from qconvert.model.open import open_model
from qconvert.text.types import Windows

Part = tuple[int, bool, str]
"""Of a block (-1 outside), whether all of it, and its name."""

Granularity = Literal["auto", "block", "tensor"]

WORST = 3
"""Blocks whose tensors "auto" measures one by one."""


@dataclass(frozen=True)
class Cost:
    """What one part costs.

    Attributes:
        name: "blk.3", or the GGUF name of a tensor: "blk.3.ffn_down.weight", "output.weight".
        block: its number; -1 outside the blocks.
        is_block: a whole block, and not one tensor.
        type: what it is stored as, the most bytes first: "Q4_K", "Q4_K, Q6_K".
        nbytes: in the file.
        divergence: mean over the scored tokens, in nats, with only this part the file's.
        standard_error: of that mean over windows; NaN for one window.
    """

    name: str
    block: int
    is_block: bool
    type: str
    nbytes: int
    divergence: float
    standard_error: float


@dataclass(frozen=True)
class Sensitivity:
    """Where a file's divergence comes from.

    Attributes:
        rows: in the model's order, a block before its tensors.
        whole: mean divergence with all weights the file's, on the same tokens.
        whole_error: its standard error.
        windows, window, scored: the sample.
        notices: what the user should know.
    """

    rows: tuple[Cost, ...]
    whole: float
    whole_error: float
    windows: int
    window: int
    scored: int
    notices: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """The sum of the parts, each weight counted once; near `whole` where errors add up
        without meeting."""
        blocks = {row.block for row in self.rows if row.is_block}
        return sum(row.divergence for row in self.rows if row.is_block or row.block not in blocks)

    @property
    def worst(self) -> tuple[Cost, ...]:
        """The rows, the most divergence first."""
        return tuple(sorted(self.rows, key=lambda row: -row.divergence))


def measure_sensitivity(
    reference: Checkpoint,
    file: Checkpoint,
    windows: Windows,
    place: Place,
    granularity: Granularity = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Measure what each part of a file costs.

    Args:
        reference: the original.
        file: the quantized one, of the same model; a GGUF file or a directory.
        windows: a few, short ones.
        place: where; its type is float32 unless it names another.
        granularity: "block", "tensor", or "auto": all blocks, then the tensors of the worst.
        progress: called with how many blocks are done and how many there are; "auto" walks
            twice.

    Raises:
        UsageError: no such granularity.
        UnsupportedError: the model is no decoder.
        PlanError: the two do not belong together.
        WeightError: a part gives values that are NaN or infinite.
    """
    if granularity not in ("auto", "block", "tensor"):
        raise UsageError(f"{granularity!r} is no granularity", "choose auto, block or tensor")
    source = find_parameters(open_model(file))
    if not source.is_causal:
        raise UnsupportedError(f"{file.source} has no output projection to be measured")
    place = replace(place, dtype="f32") if place.dtype == "auto" else place
    walks = 2 if granularity == "auto" else 1
    run = _Run(reference, source, windows, place, walks, progress)
    grain: Grain = "tensor" if granularity == "tensor" else "block"
    found = run.measure(lambda block: grain, outside=True)
    if granularity == "auto":
        worst = _worst_blocks(found)
        more = run.measure(lambda block: "tensor" if block in worst else "", outside=False)
        found = {**more, **found}  # a block that could not be cut is in both
    return _summary(found, stored_tensors(source.model), windows, tuple(run.notices))


@dataclass
class _Run:
    """What both walks of "auto" have in common."""

    reference: Checkpoint
    source: Parameters
    windows: Windows
    place: Place
    walks: int
    progress: Callable[[int, int], None] | None
    done: int = 0
    notices: list[str] = field(default_factory=list)

    def measure(self, grain: Callable[[int], Grain], *, outside: bool) -> dict[Part, np.ndarray]:
        """Divergences of each part: float64 [windows, scored of a window]."""
        journey = travel(
            self.reference,
            self.source,
            self.windows.tokens,
            self.place,
            grain,
            outside=outside,
            passed=self._passed,
        )
        arrays = divergences(journey, self.windows)
        self.notices += journey.notices
        found = {
            (variant.block, variant.is_block, variant.name): array
            for variant, array in zip(journey.variants, arrays, strict=True)
        }
        nothing = np.zeros(self.windows.targets.shape)
        same = {(block, is_block, name): nothing for name, block, is_block in journey.same}
        return {**found, **same}

    def _passed(self, blocks: int) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, self.walks * blocks)


def _worst_blocks(found: Mapping[Part, np.ndarray]) -> list[int]:
    """The numbers of the blocks that cost most; none that costs nothing."""
    means = {block: float(a.mean()) for (block, is_block, _), a in found.items() if is_block}
    order = sorted((block for block, mean in means.items() if mean > 0), key=lambda b: -means[b])
    return order[:WORST]


def _summary(
    found: Mapping[Part, np.ndarray],
    stored: Mapping[str, Stored],
    windows: Windows,
    notices: tuple[str, ...],
) -> Sensitivity:
    whole, whole_error = _mean(next(a for part, a in found.items() if part[2] == ALL))
    order = {name: number for number, name in enumerate(stored)}
    rows = []
    for (block, is_block, name), array in found.items():
        if name == ALL:
            continue
        storage = of_block(stored, block) if is_block else stored[name]
        mean, error = _mean(array)
        rows.append(Cost(name, block, is_block, storage.type, storage.nbytes, mean, error))
    rows.sort(key=lambda row: _position(row, order))
    count, window = windows.tokens.shape
    return Sensitivity(
        tuple(rows), whole, whole_error, count, window, windows.scored, tuple(notices)
    )


def _position(row: Cost, order: Mapping[str, int]) -> tuple[int, int, bool, int]:
    """Embedding, blocks each before its tensors, output."""
    part = 1 if row.block >= 0 else 2 if row.name == OUTPUT_WEIGHT else 0
    return part, row.block, not row.is_block, order.get(row.name, 0)


def _mean(array: np.ndarray) -> tuple[float, float]:
    """Over all tokens, and the standard error over windows."""
    means = array.mean(axis=1)
    return float(means.mean()), standard_error(means)
