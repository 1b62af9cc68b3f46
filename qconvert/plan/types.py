"""One output, planned: every tensor with what it becomes and its bytes, before anything is read
but headers and statistics.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from qconvert.checkpoint import Checkpoint
from qconvert.containers.target import Slot, Target
from qconvert.model.types import TensorMap
from qconvert.plan.recipe import Recipe


class Coding(Protocol):
    """How the rows of a tensor become what is written.

    Attributes:
        row_step: slabs begin at multiples of so many rows.
        matrix_rows: no slab reaches over a multiple of so many rows.
        holds_nan: NaN and infinity can be written as they are.
        moved: the stored bytes are written as they are.
        kernel: equal where `make` runs the same compiled code.
    """

    @property
    def row_step(self) -> int: ...
    @property
    def matrix_rows(self) -> int: ...
    @property
    def holds_nan(self) -> bool: ...
    @property
    def moved(self) -> bool: ...
    @property
    def kernel(self) -> Hashable: ...

    def prepare(self, rows: np.ndarray, start: int) -> np.ndarray:
        """Rows from `start` on, float32 [rows, columns], changed before they are quantized."""

    def make(self, rows: np.ndarray, start: int, peak: float) -> tuple[np.ndarray, ...]:
        """What is written for prepared rows, one C-ordered array for each slot.

        The arrays of all slabs, one behind the other, are the tensor; what does not belong to
        rows comes with those at 0, and is empty elsewhere. `peak` is the largest absolute value of
        the tensor's peers, 0 without any.
        """

    def read_back(self, rows: np.ndarray, start: int, peak: float) -> np.ndarray:
        """The weights that prepared rows have become, float32 [rows, columns]."""


@dataclass(frozen=True, eq=False)
class TensorPlan:
    """One weight of an output: where its rows come from, and what they become.

    Attributes:
        name: of the weight, as the container calls it.
        shape: as the container has it, row-major.
        source: the dtype of the stored weights that it is made of.
        map: where the rows come from.
        slots: what it becomes. The first is written slab by slab; the others are small, and held
            until their place in the file has come.
        format: what is written, in words: a format, a scheme or a dtype.
        wanted: what was asked for.
        reason: why they differ; empty if they do not.
        extra_bytes: what the difference costs, against the wanted format's bits per weight.
        peers: the tensors, itself among them, whose largest absolute value its coding wants.
        algorithm: a name in `ALGORITHMS`, where the model runs on a sample for it; empty where
            rows are coded as they are streamed.
    """

    name: str
    shape: tuple[int, ...]
    source: str
    map: TensorMap
    slots: tuple[Slot, ...]
    coding: Coding
    format: str
    wanted: str
    reason: str = ""
    extra_bytes: int = 0
    peers: Sequence["TensorPlan"] = ()
    algorithm: str = ""

    @property
    def nbytes(self) -> int:
        return sum(slot.nbytes for slot in self.slots)


@dataclass(frozen=True)
class Plan:
    """Everything about one output but its weights.

    Attributes:
        checkpoint: where the rows come from.
        recipe: what was asked for.
        tensors: every tensor of the target, in the order of the files.
        target: what is written.
        nbytes: of the weights; of a GGUF file all, unsplit.
        notices: what the user should know.
        works: folders of what was found on the way; of no more use when the output is complete.
        sample: int [windows, window], the tokens for algorithms that have the model run.
        helped: where they have run, by tensor, the share of its matrices for which that helped.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    tensors: tuple[TensorPlan, ...]
    target: Target
    nbytes: int
    notices: tuple[str, ...] = ()
    works: tuple[Path, ...] = ()
    sample: np.ndarray | None = None
    helped: Mapping[str, float] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        return sum(tensor.map.elements for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data over weights, as llama.cpp counts them."""
        return 8 * sum(tensor.nbytes for tensor in self.tensors) / self.parameters

    @property
    def fallbacks(self) -> tuple[TensorPlan, ...]:
        """The tensors that do not become what was asked for."""
        return tuple(tensor for tensor in self.tensors if tensor.reason)

    @cached_property
    def formats(self) -> dict[str, int]:
        """How many tensors get each format, the most bytes first."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.format] += tensor.nbytes
        counts = Counter(tensor.format for tensor in self.tensors)
        return {name: counts[name] for name, _ in sizes.most_common()}
