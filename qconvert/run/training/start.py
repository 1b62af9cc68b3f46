"""The quantized file that a training begins with, and what becomes of it.

It is what `quantize` writes, beside the output under a name that begins with a dot, and goes when
the output is there. So an interrupted run finds it, and what was not trained is moved from it.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from qconvert.checkpoint import Checkpoint, TensorInfo
from qconvert.checkpoint.files import read_bytes_at
from qconvert.checkpoint.open import open_checkpoint
from qconvert.checkpoint.safetensors import read_safetensors
from qconvert.containers.store import NUMPY
from qconvert.containers.target import Target
from qconvert.formats.floats import to_float32
from qconvert.formats.types import Arrays, Format
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.schemes import is_scheme
from qconvert.plan.types import Plan, TensorPlan
from qconvert.run.outputs import write_stale
from qconvert.run.stored import written
from qconvert.run.types import Run

BITS = {"BF16": np.uint16, "F8_E4M3": np.uint8}
"""As formats have what numpy does not know."""


@dataclass(frozen=True)
class Start:
    """A quantized file or directory.

    Attributes:
        plan: it has been written as this says.
        checkpoint: the same, opened.
        stored: by the names of the plan's slots, as they lie in its files.
    """

    plan: Plan
    checkpoint: Checkpoint
    stored: Mapping[str, TensorInfo]

    def arrays(self, tensor: TensorPlan, format_: Format) -> Arrays:
        """What is stored of a tensor, as its format has it."""
        parts = format_.parts((tensor.map.rows, tensor.map.columns))
        made = []
        for part, slot in zip(parts, tensor.slots, strict=False):
            info = self.stored[slot.name]
            raw = np.frombuffer(read_bytes_at(info.path, info.offset, info.nbytes), np.uint8)
            kind = BITS.get(part.dtype) or np.dtype(NUMPY[part.dtype])
            made.append(raw.view(kind).reshape(part.shape))
        return tuple(made)

    def numbers(self, tensor: TensorPlan) -> np.ndarray:
        """A tensor of plain numbers, float32, flat."""
        info = self.stored[tensor.slots[0].name]
        raw = np.frombuffer(read_bytes_at(info.path, info.offset, info.nbytes), np.uint8)
        return to_float32(raw, tensor.slots[0].dtype)

    def delete(self) -> None:
        """Remove it."""
        for file in self.plan.target.weight_files:
            file.path.unlink(missing_ok=True)
        if self.plan.target.small_files:
            shutil.rmtree(self.plan.target.path, ignore_errors=True)


def beside(recipe: Recipe, source: str) -> Recipe:
    """The recipe, for the file to begin with."""
    path = recipe.path(source)
    return replace(recipe, output=path.with_name(f".{path.name}.quantized{path.suffix}"))


def write_start(plan: Plan, run: Run) -> Start:
    """Quantize, or find what an earlier run has written.

    Raises:
        As `write_outputs`.
    """
    write_stale([plan], run.threads, run.watcher, run.device, force=True)
    opened = open_checkpoint(str(plan.target.path))
    if not is_scheme(plan.recipe.type):
        return Start(plan, opened, opened.tensors)
    stored: dict[str, TensorInfo] = {}
    for file in plan.target.weight_files:
        stored |= read_safetensors(file.path)
    return Start(plan, opened, stored)


def changed(start: Start, target: Target, changes: Mapping[str, TensorInfo]) -> Plan:
    """The plan of the output: what was trained, and the rest as it is.

    Args:
        changes: by the names of slots, with the very bytes.
    """
    sources: dict[str, TensorInfo] = {}
    tensors: list[TensorPlan] = []
    slots = [slot for tensor in start.plan.tensors for slot in tensor.slots]
    for slot in slots:
        found = changes.get(slot.name) or start.stored[slot.name]
        info = replace(found, name=f"made {slot.name}", shape=slot.shape, dtype=slot.dtype)
        sources[info.name] = info
        tensors.append(written(info, slot))
    checkpoint = replace(start.checkpoint, tensors=sources)
    return Plan(checkpoint, start.plan.recipe, tuple(tensors), target, start.plan.nbytes)
