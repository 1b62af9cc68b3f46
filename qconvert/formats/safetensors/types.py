"""How a linear layer's weight lies in a compressed-tensors checkpoint: the vocabulary.

    int-quantized          weight i8 [O, I]           weight_scale S
    float-quantized        weight f8_e4m3 [O, I]      weight_scale S
    pack-quantized         weight_packed i32          weight_scale S   weight_shape i64 [2]
    nvfp4-pack-quantized   weight_packed u8           weight_scale f8_e4m3   weight_global_scale f32
    mxfp4-pack-quantized   weight_packed u8           weight_scale u8 (powers of two)

    gptq, awq              qweight i32   qzeros i32   scales S   and of GPTQ g_idx i32

    plain                  weight S [O, I], of few distinct values

S is the model's own dtype. Asymmetric integers have a weight_zero_point besides. The names of
fields and their values are those of the compressed-tensors package.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Strategy = Literal["tensor", "rows", "channel", "group", "block", "token"]

ScaleDtype = Literal["BF16", "F16", "F32"]

EstimatorName = Literal["minmax", "percentile", "mse", "entropy"]

PERCENTILES = (50.0, 100.0)
"""A percentile is above the one and at most the other."""


@dataclass(frozen=True)
class WeightFormat:
    """A way to store a weight.

    Attributes:
        layout: "int-quantized", "pack-quantized", "float-quantized", "nvfp4-pack-quantized",
            "mxfp4-pack-quantized", "gptq", "awq" or "plain".
        type: "int" or "float"; "values" for any.
        bits: of one weight.
        strategy: which weights share a scale, or their values.
        group_size: with "group", weights of a row that share a scale; with "rows", rows.
        block: with "block", rows and columns that share a scale.
        symmetric: without zero points.
    """

    layout: str
    type: Literal["int", "float", "values"]
    bits: int
    strategy: Strategy
    group_size: int | None = None
    block: tuple[int, int] | None = None
    symmetric: bool = True


@dataclass(frozen=True)
class ActivationFormat:
    """How a linear layer's input is rounded before the product.

    Attributes:
        dynamic: the scale is taken from the input itself, by token or group; else it is stored.
            "local": scales of groups are taken from the input, and one of the tensor is stored.
    """

    type: Literal["int", "float"]
    bits: int
    strategy: Strategy
    dynamic: bool | Literal["local"]
    symmetric: bool = True


@dataclass(frozen=True)
class Estimator:
    """How the range that the codes span is chosen.

    Attributes:
        name: "minmax": all values are within; "percentile": so many percent of them; "mse": the
            rounded values are nearest by mean squared error; "entropy": their histogram is nearest
            by Kullback-Leibler divergence.
        percentile: in percent, within PERCENTILES.
    """

    name: EstimatorName = "mse"
    percentile: float = 99.99


@dataclass(frozen=True)
class Params:
    """What the codes of some rows are multiplied with.

    Attributes:
        shape: of these rows.
        scale: float32, as it is stored: [rows, groups], with "channel" [rows, 1], with "block"
            [blocks, blocks], with "tensor" [1, 1].
        zero_point: int8 of the shape of `scale`: the code of zero; None where it is 0.
        global_scale: float32, by which all scales are divided; None for 1.
    """

    shape: tuple[int, int]
    scale: np.ndarray
    zero_point: np.ndarray | None = None
    global_scale: np.float32 | None = None
