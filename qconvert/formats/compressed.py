"""How a linear layer's weight lies in a compressed-tensors checkpoint: the vocabulary.

    int-quantized          weight i8 [O, I]           weight_scale S
    float-quantized        weight f8_e4m3 [O, I]      weight_scale S
    pack-quantized         weight_packed i32          weight_scale S   weight_shape i64 [2]
    nvfp4-pack-quantized   weight_packed u8           weight_scale f8_e4m3   weight_global_scale f32
    mxfp4-pack-quantized   weight_packed u8           weight_scale u8 (powers of two)

S is the model's own dtype. Asymmetric integers have a weight_zero_point besides. The names of
fields and their values are those of the compressed-tensors package.
"""

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["tensor", "channel", "group", "block", "token"]


@dataclass(frozen=True)
class WeightFormat:
    """A way to store a weight.

    Attributes:
        layout: "int-quantized", "pack-quantized", "float-quantized", "nvfp4-pack-quantized" or
            "mxfp4-pack-quantized".
        type: "int" or "float".
        bits: of one weight.
        strategy: which weights share a scale.
        group_size: with "group", weights of a row that share a scale.
        block: with "block", rows and columns that share a scale.
        symmetric: without zero points.
    """

    layout: str
    type: Literal["int", "float"]
    bits: int
    strategy: Strategy
    group_size: int | None = None
    block: tuple[int, int] | None = None
    symmetric: bool = True


@dataclass(frozen=True)
class ActivationFormat:
    """How a linear layer's input is rounded before the product.

    Attributes:
        dynamic: the scale is taken from the input itself, by token; else it is stored.
    """

    type: Literal["int", "float"]
    bits: int
    strategy: Strategy
    dynamic: bool
    symmetric: bool = True
