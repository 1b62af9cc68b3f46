"""Bytes that are there already: they are moved."""

from dataclasses import replace

from qconvert.checkpoint import TensorInfo
from qconvert.containers.store import Store
from qconvert.containers.target import Slot
from qconvert.model.types import Rows, TensorMap
from qconvert.plan.blocks import Blocks
from qconvert.plan.types import Plan, TensorPlan


def written(info: TensorInfo, slot: Slot) -> TensorPlan:
    """A stored tensor in a place of an output: its very bytes where that has its dtype, else its
    numbers, rounded."""
    rows = TensorMap(info.name, info.shape or (1,), (Rows(info.name, 0, info.rows),))
    is_same = info.dtype == slot.dtype and info.is_plain
    coding = Blocks(slot.name, slot.dtype, info.rows, moved=is_same)
    wanted = slot.dtype
    return TensorPlan(slot.name, slot.shape, info.dtype, rows, (slot,), coding, wanted, wanted)


def with_made(plan: Plan, store: Store) -> Plan:
    """The plan, with what the store holds of it taken from there."""
    made = store.tensors
    sources: dict[str, TensorInfo] = {}
    tensors: list[TensorPlan] = []
    for tensor in plan.tensors:
        if tensor.name not in store:
            tensors.append(tensor)
            continue
        for slot in tensor.slots:
            info = replace(
                made[slot.name], name=f"made {slot.name}", shape=slot.shape, dtype=slot.dtype
            )
            sources[info.name] = info
            tensors.append(written(info, slot))
    checkpoint = replace(plan.checkpoint, tensors={**plan.checkpoint.tensors, **sources})
    return replace(plan, checkpoint=checkpoint, tensors=tuple(tensors))
