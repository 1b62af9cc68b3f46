"""A smaller checkpoint, planned: what stays of each tensor, under the name that it has now.

config.json                                 with the sizes that are left
tokenizer and other small files             as they are
model.safetensors, or shards and an index   rows and columns of the source's
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from qconvert.checkpoint import Checkpoint, TensorInfo
from qconvert.checkpoint.dtypes import PLAIN
from qconvert.containers.target import Slot
from qconvert.errors import QconvertError, UnsupportedError, shorten
from qconvert.model.mapping import OUTPUT
from qconvert.model.open import Model, open_model
from qconvert.model.types import TensorMap
from qconvert.plan.blocks import Blocks, Factors
from qconvert.plan.pruning.config import cut_config, kept_shape
from qconvert.plan.pruning.cut import Cut, Shape, shape_of
from qconvert.plan.pruning.tensors import tensors_of
from qconvert.plan.types import TensorPlan


@dataclass(frozen=True, eq=False)
class Smaller:
    """A model that is to be made of another.

    Attributes:
        whole: the other.
        cut: what stays of it.
        shape: its sizes.
        config: config.json of the smaller one.
        maps: its tensors, under Hugging Face's names.
    """

    whole: Model
    cut: Cut
    shape: Shape
    config: Mapping[str, Any]
    maps: tuple[TensorMap, ...]

    @property
    def left(self) -> Shape:
        """Its sizes."""
        return kept_shape(self.cut, self.shape)

    @property
    def parameters(self) -> int:
        return sum(one.elements for one in self.maps)

    @cached_property
    def tensors(self) -> tuple[TensorPlan, ...]:
        infos = self.whole.checkpoint.tensors
        factors = _factors(self.whole, self.cut)
        return tuple(
            _planned(one, infos[one.parts[0].source], factors.get(one.parts[0].source))
            for one in self.maps
        )

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @cached_property
    def model(self) -> Model:
        """As if it were there already, for plans: what its weights would be read from is not them.

        Raises:
            UnsupportedError: the family cannot say such sizes.
        """
        source = self.whole.checkpoint
        tensors = {
            tensor.name: _standing_for(tensor, source.tensors[tensor.map.parts[0].source])
            for tensor in self.tensors
        }
        checkpoint = replace(source, config=self.config, tensors=tensors, states={})
        try:
            made = open_model(checkpoint)
        except QconvertError as error:
            raise UnsupportedError(
                f"{self.whole.family.name} cannot have these sizes: {error.message}",
                "cut other parts of it",
            ) from error
        _check_limits(self.whole, made)
        return made


def make_smaller(model: Model, cut: Cut, of_layers: Mapping[str, list[Any]]) -> Smaller:
    """Plan a cut, and make sure that the family can say it.

    Raises:
        UnsupportedError: the family cannot, or a tensor cannot be cut.
    """
    shape = shape_of(model)
    config = cut_config(model, cut, shape, of_layers)
    smaller = Smaller(model, cut, shape, config, tensors_of(model, cut, shape))
    assert smaller.model
    return smaller


def check_can_be_cut(model: Model) -> None:
    """Refuse what is no plain decoder in a Hugging Face directory.

    Raises:
        UnsupportedError: naming what it is.
    """
    name = model.checkpoint.source
    if model.checkpoint.container != "huggingface":
        raise UnsupportedError(
            f"{name} is no Hugging Face directory", "make one of it first: qconvert export"
        )
    if model.family.encoder:
        raise UnsupportedError(
            f"{name} is an encoder: what it costs to leave something out is measured in predicted "
            "tokens, and it predicts none"
        )
    if "text_config" in model.config:
        raise UnsupportedError(
            f"{name} sees more than text, and its other parts ask for the text model's sizes",
            "cut a checkpoint of the text model alone",
        )
    if model.unknown:
        raise UnsupportedError(
            f"{name} has tensors that {model.family.name} does not know: {shorten(model.unknown)}"
        )


def notices_of(model: Model) -> tuple[str, ...]:
    """What the smaller model will lack besides."""
    lost = [name for name in model.left_out if not name.endswith(OUTPUT)]
    return (f"left out, as the model computes them anew: {shorten(lost)}",) if lost else ()


def _factors(model: Model, cut: Cut) -> dict[str, tuple[float, float]]:
    """What norms are multiplied with, by their stored names, and what is added to them before."""
    return {
        one.parts[0].source: (cut.norms[one.name], one.add)
        for one in model.tensors
        if one.name in cut.norms
    }


def _planned(one: TensorMap, info: TensorInfo, norm: tuple[float, float] | None) -> TensorPlan:
    plain = info.dtype in PLAIN and info.scale is None
    dtype = info.dtype if plain else "F32"
    slot = Slot(one.name, one.shape, dtype, one.elements * PLAIN[dtype])
    factors = None
    if norm is not None:
        factors = Factors(np.full(one.columns, norm[0], np.float32), add=norm[1])
    moved = plain and info.is_plain and not one.is_computed and factors is None
    coding = Blocks(one.name, dtype, max(one.rows, 1), moved=moved, factors=factors)
    return TensorPlan(one.name, one.shape, info.dtype, one, (slot,), coding, dtype, dtype)


def _standing_for(tensor: TensorPlan, info: TensorInfo) -> TensorInfo:
    """Bytes that are there, in the place of those of a tensor to be."""
    (slot,) = tensor.slots
    nbytes = min(slot.nbytes, info.nbytes)
    plain = replace(info, scale=None, codes=None, strides=None)
    return replace(plain, name=slot.name, shape=slot.shape, dtype=slot.dtype, nbytes=nbytes)


def _check_limits(whole: Model, made: Model) -> None:
    """Refuse what llama.cpp would run in another way, where it would not before."""
    try:
        whole.family.limits(whole.settings)
    except QconvertError:
        return
    try:
        made.family.limits(made.settings)
    except QconvertError as error:
        raise UnsupportedError(
            f"{whole.family.name}: the smaller model could not become a GGUF file: {error.message}",
            "cut other parts of it",
        ) from error


def checkpoint_of(smaller: Smaller, tensors: Mapping[str, TensorInfo]) -> Checkpoint:
    """The smaller model, of tensors that are written."""
    source = smaller.whole.checkpoint
    return replace(source, config=smaller.config, tensors=tensors, states={})
