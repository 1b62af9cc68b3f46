"""Which of a teacher's blocks each of a student's is to give the same as.

A student that `prune --layers` made knows which blocks it has left. One of these gives what the
next that is left takes, so it matches the teacher's block in front of that one. Of any other
student the blocks are spread evenly over the teacher's. The last matches the last.
"""

import re

from qconvert.checkpoint.safetensors import read_metadata
from qconvert.model.open import Model
from qconvert.model.shapes import read_sizes

KEPT = "qconvert.kept"
"""The header's key of what `prune` has left."""

LAYERS = re.compile(r"'layers': \[(\d{1,5}(?:, \d{1,5}){0,9999})\]")


def matching_blocks(student: Model, teacher: Model) -> tuple[int, ...]:
    """The teacher's block for each of the student's, ascending, from 0 on."""
    own, other = _blocks(student), _blocks(teacher)
    left = _left(student)
    if len(left) == own and left == sorted(set(left)) and left[-1] < other:
        return (*(block - 1 for block in left[1:]), other - 1)
    return tuple(max((index + 1) * other // own - 1, 0) for index in range(own))


def _blocks(model: Model) -> int:
    return read_sizes(model.family.name, model.family.metadata(model.settings))["blocks"]


def _left(model: Model) -> list[int]:
    """The source's blocks that a pruned model has; empty where it does not say."""
    for path in model.checkpoint.files:
        if path.suffix == ".safetensors":
            found = LAYERS.search(read_metadata(path).get(KEPT, ""))
            return [int(number) for number in found[1].split(", ")] if found else []
    return []
