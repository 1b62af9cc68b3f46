"""What becomes of a source's numbers that a user would not expect: they are rounded though they are
not quantized, or take more bytes than before.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from qconvert.checkpoint import TensorInfo
from qconvert.containers.sizes import human_bytes
from qconvert.errors import shorten
from qconvert.plan.types import TensorPlan

WORTH_SAYING = 0.01
"""Of an output's bytes. Norms, which GGUF has in F32, are less in any real model."""


def rounded(tensors: Sequence[TensorPlan]) -> tuple[str, ...]:
    """How many of these, which are not quantized, lose something."""
    narrowed = Counter(
        tensor.format for tensor in tensors if tensor.format not in ("F32", tensor.source)
    )
    return tuple(f"{count} tensors are rounded to {name}" for name, count in narrowed.items())


def larger(tensors: Sequence[TensorPlan], sources: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Which tensors, and whether all together, are larger than what they are made of."""
    before = [_stored_bytes(tensor, sources) for tensor in tensors]
    return tuple(_lines(tensors, before))


def _lines(tensors: Sequence[TensorPlan], before: Sequence[int]) -> Iterator[str]:
    total = sum(tensor.nbytes for tensor in tensors)
    if total > (1 + WORTH_SAYING) * sum(before):
        yield (
            f"the output is larger than its source: {human_bytes(total)} of weights, "
            f"not {human_bytes(sum(before))}"
        )
    grown = [(tensor, tensor.nbytes - was) for tensor, was in zip(tensors, before, strict=True)]
    for kind in dict.fromkeys((tensor.source, tensor.format) for tensor in tensors):
        group = [
            (tensor, more)
            for tensor, more in grown
            if more > 0 and (tensor.source, tensor.format) == kind
        ]
        added = sum(more for _, more in group)
        if added > WORTH_SAYING * total:
            names = shorten([tensor.name for tensor, _ in group])
            yield f"larger than in the source by {human_bytes(added)}, {' -> '.join(kind)}: {names}"


def _stored_bytes(tensor: TensorPlan, sources: Mapping[str, TensorInfo]) -> int:
    parts = [(sources[part.source], len(part)) for part in tensor.map.parts]
    return round(sum(info.stored_bytes * rows / info.rows for info, rows in parts if info.rows))
