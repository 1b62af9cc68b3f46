"""Variants of a model on their way through its blocks, each with one part from another file.

`qconvert.evaluation.sensitivity.measure` says what they are for.

    original   block 0 -> block 1 -> block 2 -> ...
    blk.0      block 0'-> block 1 -> block 2 -> ...      ' with the file's weights
    blk.1                 block 1'-> block 2 -> ...      begins with the original's states
    all        block 0'-> block 1'-> block 2'-> ...
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from qconvert.checkpoint import Checkpoint
from qconvert.forward.linears import Linear, rows_of, with_rows
from qconvert.forward.skeleton import set_parameter
from qconvert.forward.states import States
from qconvert.forward.walk import Block, Place, Walk
from qconvert.forward.weights import Parameters, read_parameter
from qconvert.model.mapping import EMBEDDING, OUTPUT_WEIGHT
from qconvert.model.open import open_model

Grain = Literal["", "block", "tensor"]
"""Into which parts a block is cut; "" measures nothing in it."""

ALL = "all"

SCALED = 0.01
"""Relative change of a norm's weights that no rounding makes: scales were moved between the norm
and the tensors behind it."""

Weights = dict[str, Any]
"""Some of a block's parameters, by their names in it."""


@dataclass(frozen=True)
class Variant:
    """The original but for one part.

    Attributes:
        name: of the part, or "all".
        block: its number; -1 outside the blocks.
        is_block: a whole block.
        states: its hidden states, from the part on; None where they are the original's.
        head: whether the output projection is the file's.
    """

    name: str
    block: int
    is_block: bool
    states: States | None
    head: bool = False


@dataclass
class Journey:
    """A walk of the original, and the variants on their way with it.

    Attributes:
        walk: the original's.
        source: the file whose weights are put in.
        folder: for the variants' hidden states.
        tied: the file's output projection is its token embedding.
        variants: in the order of the model.
        same: parts whose weights are the original's: name, block, whether a whole block.
        notices: what the user should know.
    """

    walk: Walk
    source: Parameters
    folder: Path
    tied: bool
    variants: list[Variant] = field(default_factory=list)
    same: list[tuple[str, int, bool]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def begin(self, name: str, block: int, *, is_block: bool = False, head: bool = False) -> States:
        """Make room for a variant."""
        folder = self.folder / f"variant-{len(self.variants)}"
        folder.mkdir(parents=True, exist_ok=True)
        states = States(folder, self.walk.states.shape, self.walk.dtype)
        states.create()
        self.variants.append(Variant(name, block, is_block, states, head))
        return states


def travel(
    reference: Checkpoint,
    source: Parameters,
    tokens: Any,
    place: Place,
    grain: Callable[[int], Grain],
    *,
    outside: bool,
    passed: Callable[[int], None] = lambda blocks: None,
) -> Journey:
    """Take all variants to the end of the last block.

    Args:
        reference: the original.
        source: the file, opened.
        grain: of each block.
        outside: also the embedding, the output projection, and all weights at once.
        passed: called behind each block with the number of blocks.

    Raises:
        PlanError: a weight of the file has another shape.
    """
    walk = Walk(open_model(reference), tokens, place)
    walk.check_alone("measured part by part")
    journey = Journey(walk, source, place.folder, source.model.output == EMBEDDING)
    for block in walk:
        if outside and block.index == 0:
            _embed(journey, place)
        _pass(journey, block, grain(block.index))
        block.run()
        passed(len(walk))
    if outside and not journey.tied:
        journey.variants.append(Variant(OUTPUT_WEIGHT, -1, is_block=False, states=None, head=True))
    return journey


def _embed(journey: Journey, place: Place) -> None:
    """The variants that begin before the first block. The file's own model embeds for them."""
    folder = place.folder / "embedding"
    folder.mkdir(exist_ok=True)
    other = Walk(journey.source.model, journey.walk.tokens, replace(place, folder=folder))
    starts = [
        journey.begin(ALL, -1, head=True),
        journey.begin(EMBEDDING, -1, head=journey.tied),
    ]
    block = next(iter(other))
    for states in starts:
        for start, hidden in block.batches():
            states.write(0, start, hidden)
    block.unload()


def _pass(journey: Journey, block: Block, grain: Grain) -> None:
    """All variants through a block, and those that begin in it."""
    carried = list(journey.variants)
    for variant in carried:
        if variant.name != ALL:
            _advance(block, variant.states, variant.states)
    everything = next((v for v in carried if v.name == ALL), None)
    if grain or everything:
        weights = _read_block(journey, block)
        if everything:
            with replaced(block, weights):
                _advance(block, everything.states, everything.states)
        _begin_parts(journey, block, weights, grain)


def _begin_parts(journey: Journey, block: Block, weights: Weights, grain: Grain) -> None:
    index = block.index
    if grain == "tensor" and _is_scaled(block, weights):
        journey.notices.append(
            f"blk.{index}: its norms carry scales of its tensors, which cannot be told apart: "
            "measured as a whole"
        )
        grain = "block"
    if grain == "block":
        _begin(journey, block, f"blk.{index}", weights, is_block=True)
    elif grain == "tensor":
        for name, line in block.linears.items():
            _begin(journey, block, name, _one(block, line, weights), is_block=False)


def _begin(journey: Journey, block: Block, name: str, weights: Weights, *, is_block: bool) -> None:
    """A variant that has been the original so far."""
    import torch

    own = dict(block.module.named_parameters())
    if all(torch.equal(values, own[key]) for key, values in weights.items()):
        journey.same.append((name, block.index, is_block))
        return
    states = journey.begin(name, block.index, is_block=is_block)
    with replaced(block, weights):
        _advance(block, None, states)


def _advance(block: Block, source: States | None, target: States | None) -> None:
    """Hidden states through a block; None as the source stands for the original's."""
    assert target is not None
    for start, hidden in block.batches():
        if source is not None:
            hidden = source.read(block.index, start, start + len(hidden)).to(hidden.device)
        target.write(block.index + 1, start, block.forward(hidden))


def _read_block(journey: Journey, block: Block) -> Weights:
    """The file's parameters of a block, as transformers' model has them."""
    walk = journey.walk
    prefix = f"{walk.skeleton.blocks_name}.{block.index}."
    return {
        name: read_parameter(journey.source, prefix + name, tuple(parameter.shape), walk.dtype).to(
            walk.device
        )
        for name, parameter in block.module.named_parameters()
    }


def _one(block: Block, line: Linear, weights: Weights) -> Weights:
    """The parameter that holds a tensor, with that tensor's rows from the file."""
    module = next(name for name, child in block.module.named_modules() if child is line.module)
    key = f"{module}.{line.parameter}" if module else line.parameter
    own = block.module.get_parameter(key)
    return {key: with_rows(line, own, rows_of(line, weights[key]))}


def _is_scaled(block: Block, weights: Weights) -> bool:
    """Whether a norm of the file differs from the original's by more than rounding."""
    for name, own in block.module.named_parameters():
        if own.dim() == 1 and "norm" in name:
            change = (weights[name].float() - own.float()).norm()
            if change > SCALED * own.float().norm():
                return True
    return False


@contextmanager
def replaced(block: Block, weights: Weights) -> Iterator[None]:
    """A block with some other parameters, for a while."""
    own = {name: block.module.get_parameter(name) for name in weights}
    try:
        for name, values in weights.items():
            set_parameter(block.module, name, values)
        yield
    finally:
        for name, values in own.items():
            set_parameter(block.module, name, values)
