"""What outputs of one checkpoint take to be made: reading, writing, memory and time.

Times are those of stated rates, and no forecast for a machine: they say what limits, and what more
machines or a faster disk would be good for.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from qconvert.containers.sizes import human_bytes
from qconvert.model.types import SLAB_WEIGHTS
from qconvert.plan.algorithms import by_sample, memory
from qconvert.plan.types import Plan

DISK = 1e9
"""Bytes a second, read and written together."""

WEIGHTS = 46e6
"""Weights a second that a core quantizes (README: Q4_K_M)."""

FLOPS = 60e9
"""Products and sums a second of a core, in a matrix product."""

PROCESS = 300_000_000
"""Bytes of a process that streams: Python, numpy and compiled kernels."""

SLAB_BYTES = 24
"""For each weight of a slab: as stored, as float32, what is tried, and what is written."""

SLABS = 3
"""For each core: at work, done and waiting, read ahead."""


@dataclass(frozen=True)
class Effort:
    """Of all outputs together.

    Attributes:
        passes: how often the source is read, as a share of its bytes.
        read, written: bytes.
        peak: bytes of memory of a process.
        seconds: at the stated rates.
    """

    passes: float
    read: int
    written: int
    peak: int
    seconds: float


def effort(plans: Sequence[Plan], processes: int, cores: int) -> Effort:
    """Of outputs that are made together.

    Args:
        processes: that share the work.
        cores: of each.
    """
    source = plans[0].checkpoint
    written = sum(plan.nbytes for plan in plans)
    read = source.nbytes
    coded = sum(
        tensor.map.elements for plan in plans for tensor in plan.tensors if not tensor.coding.moved
    )
    peak = PROCESS + SLABS * cores * SLAB_BYTES * SLAB_WEIGHTS
    working = coded / (WEIGHTS * cores * processes)
    for numbers in by_sample(plans):
        own = [plans[number] for number in numbers]
        fitted = [tensor for tensor in own[0].tensors if tensor.algorithm]
        stored = sum(
            source.tensors[part.source].stored_bytes
            for tensor in fitted
            for part in tensor.map.parts
        )
        # A walk for each output and one for the original; then each output's rows once more.
        again = (2 * len(own) + 1) * stored
        read += again
        written += sum(tensor.nbytes for plan in own for tensor in plan.tensors if tensor.algorithm)
        peak = max(peak, memory(own))
        working += _observing(own) / (FLOPS * cores)  # in one process
    return Effort(
        read / max(source.nbytes, 1),
        read,
        written,
        peak,
        max(working, (read + written) / DISK),
    )


def _observing(plans: Sequence[Plan]) -> float:
    """Operations of the models on their sample, and of the moments of what goes into weights."""
    sample, models = plans[0].sample, len(plans) + 1
    assert sample is not None
    fitted = [tensor.map for tensor in plans[0].tensors if tensor.algorithm]
    matrices = [(map_.columns, map_.elements, map_.rows // map_.shape[-2]) for map_ in fitted]
    # Of experts a token reaches a few; as many as there are is no more than a bound.
    weights = sum(elements / max(count // 8, 1) for _, elements, count in matrices)
    inputs = Counter(columns for columns, _, _ in matrices)
    moments = sum(1.5 * columns**2 * number / 2 for columns, number in inputs.items())
    return 2.0 * sample.size * (models * weights + len(plans) * moments)


def effort_line(plans: Sequence[Plan], processes: int, cores: int) -> str:
    """The same in words."""
    found = effort(plans, processes, cores)
    passes = f"{found.passes:.1f}".removesuffix(".0")
    times = "once" if passes == "1" else f"{passes} times"
    many = f"{processes} processes of " if processes > 1 else ""
    return (
        f"reads the source {times}: {human_bytes(found.read)}; writes {human_bytes(found.written)};"
        f" about {human_bytes(found.peak)} of memory for each process; {_human(found.seconds)} with"
        f" {many}{cores} core{'s' if cores > 1 else ''} at {WEIGHTS / 1e6:.0f} million weights and"
        f" {FLOPS / 1e9:.0f} GFLOP a second each, and a disk of {human_bytes(int(DISK))} a second"
    )


def _human(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
