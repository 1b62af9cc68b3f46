"""Single numbers that a checkpoint has as tensors, one in each block, and GGUF as a key's list."""

from collections.abc import Mapping

from qconvert.checkpoint import TensorInfo, read_rows
from qconvert.checkpoint.metadata import Metadata, f32s
from qconvert.errors import PlanError
from qconvert.model.families.parts.common import block_count
from qconvert.model.names import bare_name
from qconvert.model.shapes import empty_tensor
from qconvert.model.types import Config, Family


def number_tensors(
    family: Family, settings: Config, tensors: Mapping[str, TensorInfo]
) -> dict[str, list[TensorInfo]]:
    """The tensors of each key, in the order of the blocks.

    Raises:
        PlanError: one is missing, or is no single number.
    """
    if not family.numbers:
        return {}
    by_name = {bare_name(name): info for name, info in tensors.items()}
    found: dict[str, list[TensorInfo]] = {}
    for key, template in family.numbers.items():
        found[key] = []
        for block in range(block_count(settings)):
            name = template.replace("{i}", str(block))
            info = by_name.get(bare_name(name))
            if info is None:
                raise PlanError(f"the checkpoint has no tensor {name}")
            if not info.elements:
                raise empty_tensor(info)
            if info.elements != 1:
                raise PlanError(f"the checkpoint has more than a number in {name}")
            found[key].append(info)
    return found


def number_keys(family: Family, settings: Config, tensors: Mapping[str, TensorInfo]) -> Metadata:
    """The keys."""
    found = number_tensors(family, settings, tensors)
    return {key: f32s([_number(info) for info in infos]) for key, infos in found.items()}


def _number(info: TensorInfo) -> float:
    return float(read_rows(info, 0, info.rows).reshape(-1)[0])
