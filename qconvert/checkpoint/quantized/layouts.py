"""How a weight lies in a quantized checkpoint: plain data, one class for each layout.

    method         tensors of a layer X                                          weight
    gptq           X.qweight  X.qzeros  X.scales  X.g_idx                        X.weight
    awq            X.qweight  X.qzeros  X.scales                                 X.weight
    bitsandbytes   X.weight  X.weight.absmax  X.weight.quant_map ...             X.weight
                   X.weight  X.SCB                                               X.weight
    mxfp4          X_blocks  X_scales                                            X
    modelopt       X.weight  X.weight_scale  X.weight_scale_2                    X.weight
    (MLX)          X.weight  X.scales  X.biases                                  X.weight

The module of each method has its byte layout and its source.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gptq:
    """Integers of 2, 3, 4 or 8 bits, with a zero point and a scale for each group of inputs.

    Attributes:
        group_size: of inputs that share a scale, where they do so in their order; 0 where only
            `g_idx` says which do.
        shift: what is added to stored zero points: 1 in the first version of the format.
    """

    bits: int
    group_size: int
    shift: int

    @property
    def label(self) -> str:
        return f"int{self.bits} g{self.group_size}" if self.group_size else f"int{self.bits}"

    @property
    def dtype(self) -> str:
        return f"gptq {self.label}"


@dataclass(frozen=True)
class Awq:
    """Integers of 4 bits, with a zero point and a scale for each group of inputs."""

    group_size: int

    @property
    def label(self) -> str:
        return f"int4 g{self.group_size}"

    @property
    def dtype(self) -> str:
        return f"awq {self.label}"


@dataclass(frozen=True)
class FourBit:
    """Codes of 4 bits in a table, scaled by the largest value of each run of weights.

    Attributes:
        kind: "nf4" or "fp4".
        block: weights that share a scale, rows one after the other.
        nested_block: of scales that are codes themselves, how many share a scale; 0 where they
            are floats.
        offset: what is added to nested scales.
    """

    kind: str
    block: int
    nested_block: int = 0
    offset: float = 0.0

    @property
    def label(self) -> str:
        return f"{self.kind} b{self.block}"

    @property
    def dtype(self) -> str:
        return f"bitsandbytes {self.label}"


@dataclass(frozen=True)
class EightBit:
    """int8, scaled by 127th parts of the largest value of each row."""

    @property
    def label(self) -> str:
        return "int8"

    @property
    def dtype(self) -> str:
        return "bitsandbytes int8"


@dataclass(frozen=True)
class Mxfp4:
    """Floats of 4 bits (e2m1), 32 to a power of two; the low four bits of a byte come first."""

    @property
    def label(self) -> str:
        return "mxfp4"

    @property
    def dtype(self) -> str:
        return "mxfp4"


@dataclass(frozen=True)
class Nvfp4:
    """Floats of 4 bits (e2m1), 16 to a scale of 8 bits, and one scale for all of these."""

    @property
    def label(self) -> str:
        return "nvfp4"

    @property
    def dtype(self) -> str:
        return "modelopt nvfp4"


@dataclass(frozen=True)
class Mlx:
    """Integers or small floats in groups of a row, as MLX's `mode` has them."""

    mode: str
    bits: int
    group_size: int

    @property
    def label(self) -> str:
        kind = f"int{self.bits}" if self.mode == "affine" else self.mode
        return f"{kind} g{self.group_size}"

    @property
    def dtype(self) -> str:
        return f"mlx {self.label}"


Layout = Gptq | Awq | FourBit | EightBit | Mxfp4 | Nvfp4 | Mlx
