"""Which weights are made with what a sample shows of their inputs, and in which format."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np

from qconvert.containers.room import WAITING, waiting_bytes
from qconvert.containers.sizes import human_bytes
from qconvert.errors import shorten
from qconvert.formats import FORMATS
from qconvert.formats.types import Format, block_sizes
from qconvert.model.open import Model
from qconvert.model.roles import block_number
from qconvert.model.transforms import Scale
from qconvert.model.weights import EXPERTS
from qconvert.plan.blocks import Blocks, Factors
from qconvert.plan.mlx.tensors import MlxWeight
from qconvert.plan.safetensors.tensors import Quantized
from qconvert.plan.statistics import Statistics
from qconvert.plan.types import Plan, TensorPlan

FEEDBACK = "feedback"

LIBRARIES, SLACK = 1_000_000_000, 1.5
"""Bytes; and what the allocator keeps beside what is in use."""


def with_algorithm(tensor: TensorPlan, statistics: Statistics, model: Model) -> TensorPlan:
    """Weights in blocks and the output projection take feedback where there are tokens to run the
    model on."""
    name = gguf_name(tensor)
    if statistics.sample is None or not name:
        return tensor
    if block_number(name) < 0 and name != model.output:
        return tensor
    return tensor if format_to_fit(tensor) is None else replace(tensor, algorithm=FEEDBACK)


def without_algorithm(tensors: Iterable[TensorPlan], statistics: Statistics) -> tuple[str, ...]:
    """Which weights take none although there are tokens to run the model on."""
    if statistics.sample is None:
        return ()
    names = [
        tensor.name
        for tensor in tensors
        if block_number(gguf_name(tensor)) >= 0 and is_elsewhere(tensor)
    ]
    if not names:
        return ()
    return (f"without feedback, because transformers has it otherwise than GGUF: {shorten(names)}",)


def is_elsewhere(tensor: TensorPlan) -> bool:
    """Whether transformers' model has no such matrix, with such rows and columns: what is known of
    its inputs and outputs does not fit the weight."""
    return _is_absorbed(tensor) or _is_scattered(tensor) or _is_scaled(tensor)


def _is_absorbed(tensor: TensorPlan) -> bool:
    """Whether a runtime multiplies a tensor with something else than transformers does: matrices
    of heads, not of experts."""
    is_block = isinstance(tensor.coding, Blocks) and block_sizes(tensor.coding.format)[0] > 1
    return is_block and len(tensor.shape) > 2 and EXPERTS not in gguf_name(tensor)


def _is_scattered(tensor: TensorPlan) -> bool:
    """Whether GGUF has a weight in other rows or columns, and so what is known of its input."""
    coding = tensor.coding
    return isinstance(coding, Quantized | MlxWeight) and coding.weight.scattered


def _is_scaled(tensor: TensorPlan) -> bool:
    """Whether GGUF has a weight multiplied with what transformers multiplies its input or output
    with."""
    steps = [*tensor.map.steps, *(step for part in tensor.map.parts for step in part.steps)]
    return isinstance(tensor.coding, Blocks) and any(isinstance(step, Scale) for step in steps)


def made_with(tensors: Iterable[TensorPlan], sample: np.ndarray | None) -> dict[str, str]:
    """What the header says of it, which tells an output from one whose rows are all coded as they
    are streamed, and from one of another sample; empty where nothing is made with a sample."""
    names = sorted({tensor.algorithm for tensor in tensors} - {""})
    if not names or sample is None:
        return {}
    digest = sha256(np.ascontiguousarray(sample, "<i4").tobytes() + repr(sample.shape).encode())
    return {"qconvert.algorithm": ", ".join(names), "qconvert.sample": digest.hexdigest()}


def gguf_name(tensor: TensorPlan) -> str:
    """What GGUF calls the weight that a tensor is, or is a part of; empty for none."""
    coding = tensor.coding
    return coding.weight.gguf if isinstance(coding, Quantized | MlxWeight) else tensor.name


def first_matrix(tensor: TensorPlan) -> int:
    """Which of the GGUF tensor's matrices is its first."""
    coding = tensor.coding
    return coding.weight.matrix if isinstance(coding, Quantized | MlxWeight) else 0


def order_of(tensor: TensorPlan) -> tuple[int, ...]:
    """In which order a weight has transformers' rows, as its map says it; empty for the same, as
    all weights of a directory have them, whatever they are made of."""
    return () if isinstance(tensor.coding, Quantized | MlxWeight) else tensor.map.order


def format_to_fit(tensor: TensorPlan) -> Format | None:
    """The format of a weight that is what its checkpoint says, quantized, and no more; None where
    it is stored as numbers or turned, moved, scattered in GGUF, by which its inputs are known, or
    has the range of its input beside it, or where nothing is computed with it."""
    coding = tensor.coding
    if tensor.map.unused or is_elsewhere(tensor):
        return None
    if isinstance(coding, Quantized):
        is_plain = coding.inputs is None and not coding.weight.conv1d
        return coding.format if is_plain else None
    if isinstance(coding, MlxWeight):
        # Routers and tables of positions are no matter of feedback.
        return coding.format if coding.weight.quantizable else None
    if not isinstance(coding, Blocks) or coding.moved or block_sizes(coding.format)[0] == 1:
        return None
    if coding.scales > 1:  # one for all experts, which are made one by one
        return None
    return FORMATS[coding.format] if coding.factors is None else None


def stored_format(tensor: TensorPlan) -> Format | None:
    """The format of a weight in a block that is stored as codes, row by row; None for others."""
    coding = tensor.coding
    if block_number(gguf_name(tensor)) < 0:
        return None
    if isinstance(coding, Quantized):
        return None if coding.weight.conv1d else coding.format
    if isinstance(coding, MlxWeight):
        return coding.format
    if not isinstance(coding, Blocks) or block_sizes(coding.format)[0] == 1 or _is_scaled(tensor):
        return None
    return FORMATS.get(coding.format)


def factors_of(tensor: TensorPlan) -> Factors | None:
    """What a weight is multiplied with before it is quantized; None for nothing."""
    coding = tensor.coding
    return coding.factors if isinstance(coding, Quantized | Blocks) else None


def by_sample(plans: Sequence[Plan]) -> list[list[int]]:
    """The numbers of plans that have something to be made with a sample; those with the same one
    together, so that the original runs once for them."""
    found: dict[tuple[bytes, tuple[int, ...]], list[int]] = {}
    for number, plan in enumerate(plans):
        if plan.sample is not None and any(tensor.algorithm for tensor in plan.tensors):
            found.setdefault((plan.sample.tobytes(), plan.sample.shape), []).append(number)
    return list(found.values())


def cost(plans: Sequence[Plan]) -> str:
    """What it takes to make the weights that have an algorithm, of outputs with one sample, in
    words."""
    names = ", ".join(plan.target.path.name for plan in plans)
    taken = sum(bool(tensor.algorithm) for plan in plans for tensor in plan.tensors)
    assert plans[0].sample is not None
    return (
        f"{names}: feedback for {taken} weights; the model runs on the calibration's "
        f"{plans[0].sample.size} tokens, several times as long as calibrating took, in about "
        f"{human_bytes(memory(plans))} of memory (--no-feedback leaves that out)"
    )


def memory(plans: Sequence[Plan]) -> int:
    """About how many bytes it takes: a block of each model, the activations that wait in front of
    a product, the moments of the widest input with what is made of them, and what libraries take by
    themselves."""
    made = [tensor for tensor in plans[0].tensors if tensor.algorithm]
    inside = [tensor for tensor in made if block_number(gguf_name(tensor)) >= 0]
    own = [tensor.map for tensor in inside]
    if plans[0].sample is None or not own:
        return LIBRARIES if made else 0
    models, tokens = len(plans) + 1, plans[0].sample.size
    usual, _ = Counter(map_.columns for map_ in own).most_common(1)[0]
    widest = max(map_.columns for map_ in own)
    rows = max(map_.shape[-2] for map_ in own if map_.columns == widest)
    blocks = len({block_number(gguf_name(tensor)) for tensor in inside})
    weights = models * ITEM * sum(map_.elements for map_ in own) // blocks
    moments = 4 * (6 * widest**2 + 8 * rows * widest)
    waiting = models * waiting_bytes(tokens, usual, widest, ITEM)
    if waiting <= WAITING:
        return LIBRARIES + weights + int(SLACK * waiting) + moments
    attention = models * ITEM * tokens * 3 * usual  # what waits there is not put on the disk
    return LIBRARIES + weights + max(attention, moments)


ITEM = 2
"""Bytes of a number of bfloat16 or float16."""

FEW_BITS = 7
"""Of a weight: with fewer, a calibration brings an output much nearer to the original."""


def would_gain(plan: Plan) -> bool:
    """Whether the weights in blocks have few bits, and nothing was known of their inputs."""
    if plan.recipe.calibration or plan.recipe.importance:
        return False
    fitted = [
        tensor
        for tensor in plan.tensors
        if block_number(gguf_name(tensor)) >= 0 and format_to_fit(tensor) is not None
    ]
    weights = sum(tensor.map.elements for tensor in fitted)
    return 8 * sum(tensor.nbytes for tensor in fitted) < FEW_BITS * weights
