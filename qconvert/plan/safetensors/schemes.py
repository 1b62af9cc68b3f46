"""The schemes of quantized safetensors: what `-t` accepts beside GGUF's file types.

wNaM: weights of N bits, activations of M bits; 16 stands for the model's own numbers.

    w8a8           int8, a scale for each row; inputs int8, by token or by a stored range
    fp8            float8 e4m3, a scale for each row, tensor or block; inputs alike
    w2a16 - w8a16  packed integers, a scale for each group (w8a16: for each row)
    w4a8           int4, not packed; inputs int8, by token
    w4afp8         int4, packed; inputs float8, by token
    nvfp4a16       float4, a float8 scale for 16 weights, a float32 scale for the tensor
    nvfp4a4        the same; inputs alike, the scale of the tensor being stored
    mxfp4a16       float4, a power of two for 32 weights
    mxfp4a4        the same; inputs alike
    gptq2 - gptq8  the integers of wNa16 in the layout of GPTQ, awq4 in that of AWQ
    lut2 - lut8    no layout at all: a plain checkpoint whose tensors have 4 to 256 values each

Types of MLX are directories of safetensors too: see `qconvert.plan.mlx.types`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal, get_args

from qconvert.errors import UsageError
from qconvert.formats.safetensors.types import ActivationFormat, WeightFormat
from qconvert.plan.gguf.file_types import FILE_TYPES, nearest
from qconvert.plan.mlx.types import AFFINE, MLX

WEIGHT_ONLY = ("w8a16", "w7a16", "w6a16", "w5a16", "w4a16", "w3a16", "w2a16")
FP4 = ("nvfp4a16", "nvfp4a4", "mxfp4a16", "mxfp4a4")
W4A8 = ("w4a8", "w4afp8")
KEEP = "keep"
"""Stands for a scheme in an override: the weight stays as it is."""

GPTQ = ("gptq8", "gptq4", "gptq3", "gptq2")
AWQ = ("awq4",)
LUT = ("lut8", "lut6", "lut4", "lut3", "lut2")

SCHEMES = ("w8a8", "fp8", *W4A8, *WEIGHT_ONLY, *FP4, *GPTQ, *AWQ, *LUT)

DIRECTORIES = (*SCHEMES, *MLX)

Kind = Literal[
    "gguf",
    "int8",
    "fp8",
    "weight-only",
    "fp4",
    "w4a8",
    "gptq",
    "awq",
    "lut",
    "mlx",
    "mlx-float",
]
"""Which options a type has."""

KINDS: tuple[Kind, ...] = get_args(Kind)


def is_scheme(name: str) -> bool:
    """Whether a type is one of safetensors, in any case."""
    return name.lower() in DIRECTORIES


def is_mlx(name: str) -> bool:
    """Whether a type is one of MLX, in any case."""
    return name.lower() in MLX


ELSEWHERE = {
    "gptq": "try gptq4 for its layout (gptq2 to gptq8); -c rounds every type as it does",
    "awq": "try awq4 for its layout; w4a16 with -c is what vLLM and transformers run too",
    "int4": "try w4a16, q4_k_m or mlx4",
    "int8": "try w8a8, w8a16, q8_0 or mlx8",
    "4bit": "try q4_k_m, w4a16 or mlx4",
    "8bit": "try q8_0, w8a8 or mlx8",
    "fp16": "try f16",
    "fp32": "try f32",
    "fp4": "try nvfp4a16, nvfp4a4, mxfp4a16, mxfp4a4; nvfp4 or mxfp4_moe for GGUF",
    "mxfp4": "try mxfp4_moe for GGUF, mxfp4a16 or mxfp4a4 for vLLM, mlx-mxfp4 for MLX",
    "mlx": "try mlx4 (mlx2 to mlx8), mlx-mxfp4, mlx-nvfp4",
    "gguf": "try q4_k_m, q8_0 or another; `qconvert inspect MODEL` lists them",
    "exl2": "not made here; --bits N chooses types for a number of bits in GGUF",
    "exl3": "not made here; --bits N chooses types for a number of bits in GGUF",
    "nf4": "not made here (bitsandbytes quantizes on loading); w4a16 or q4_k_m",
    **{f"q{bits}": f"try q{bits}_k_m" for bits in (3, 4, 5)},
    "q2": "try q2_k",
    "q6": "try q6_k",
    "q8": "try q8_0",
}
"""What users call types elsewhere, and what is meant here."""

COMMON = "q8_0, q6_k, q5_k_m, q4_k_m, iq4_xs, q3_k_m, q2_k, w8a8, w4a16, fp8, mlx4"


def find_types(names: Iterable[str]) -> list[str]:
    """The types of `-t`, each once; one name may hold several, divided by commas.

    Raises:
        UsageError: there is no such type; the hint has what may be meant.
    """
    parts = (part.strip() for name in names for part in name.split(","))
    return list(dict.fromkeys(find_type(part) for part in parts if part))


def find_type(name: str) -> str:
    """The name of the file type or scheme, in small letters.

    Raises:
        UsageError: there is none; the hint has the nearest names.
    """
    small = name.lower()
    if small in DIRECTORIES:
        return small
    if small in FILE_TYPES:
        return FILE_TYPES[small].name
    near = get_close_matches(small, (*FILE_TYPES, *DIRECTORIES), n=4, cutoff=0.5)
    usual = f"usual are {COMMON}; `qconvert inspect MODEL` lists all"
    meant = ELSEWHERE.get(small) or (f"did you mean {' or '.join(near)}?" if near else usual)
    raise UsageError(f"unknown type {name!r:.60}", meant)


def find_scheme(name: str) -> str:
    """The name of the scheme, in small letters.

    Raises:
        UsageError: there is none; the hint has the nearest names.
    """
    if name.lower() not in SCHEMES:
        raise UsageError(f"unknown scheme {name!r:.60}", nearest(name, SCHEMES))
    return name.lower()


def find_mlx(name: str) -> str:
    """The name of the type of MLX, in small letters.

    Raises:
        UsageError: there is none; the hint has the nearest names.
    """
    if not is_mlx(name):
        raise UsageError(f"{name!r:.60} is no type of MLX", nearest(name, MLX))
    return name.lower()


def kind_of(name: str) -> Kind:
    """The kind of a type that `find_type` knows."""
    small = name.lower()
    if small in WEIGHT_ONLY:
        return "weight-only"
    if small in FP4:
        return "fp4"
    if small in W4A8:
        return "w4a8"
    if small in GPTQ:
        return "gptq"
    if small in AWQ:
        return "awq"
    if small in LUT:
        return "lut"
    if small in MLX:
        return "mlx" if small in AFFINE else "mlx-float"
    return "int8" if small == "w8a8" else "fp8" if small == "fp8" else "gguf"


Activations = Literal["dynamic", "static"]
Sharing = Literal["tensor", "channel", "block"]
GroupSize = int | Literal["channel"]

GROUPED: tuple[Kind, ...] = ("weight-only", "w4a8", "gptq", "awq")

GROUP_SIZES = (128, 64, 32, 16)
"""Groups of packed integers, the largest first; serving engines know all but the last."""

BLOCK = (128, 128)


@dataclass(frozen=True)
class Scheme:
    """How linear layers are stored and run.

    Attributes:
        inputs: how their inputs are rounded; None leaves them.
    """

    name: str
    weights: WeightFormat
    inputs: ActivationFormat | None = None

    @property
    def is_static(self) -> bool:
        """Whether it stores ranges of inputs, and takes nothing from the inputs themselves."""
        return self.inputs is not None and not self.inputs.dynamic

    @property
    def is_local(self) -> bool:
        """Whether it stores the one scale of an input that those of its groups are divided by."""
        return self.inputs is not None and self.inputs.dynamic == "local"

    @property
    def is_older(self) -> bool:
        """Whether its layout is GPTQ's or AWQ's, where a model has one way to store all layers."""
        return self.weights.layout in ("gptq", "awq")

    @property
    def is_plain(self) -> bool:
        """Whether what it makes is no quantized layout, but weights of few distinct values."""
        return self.weights.layout == "plain"


def make_scheme(
    name: str,
    *,
    activations: Activations | None = None,
    strategy: Sharing | None = None,
    group_size: GroupSize | None = None,
    asymmetric: bool = False,
) -> Scheme:
    """The scheme of that name. None leaves a choice to the scheme.

    Args:
        activations: w8a8 and fp8: a scale for each token, or one that is stored.
        strategy: fp8: which weights share a scale.
        group_size: wNa16, w4a8, w4afp8, gptqN, awq4: weights of a row that share a scale;
            "channel" for the whole row. lutN: rows that share their values.
        asymmetric: with zero points: of the inputs in w8a8, of the weights in wNa16 and gptqN.

    Raises:
        UsageError: no such scheme, or an option that does not fit it.
    """
    name = find_scheme(name)
    kind = kind_of(name)
    _refuse(name, "activations", activations if kind not in ("int8", "fp8") else None)
    _refuse(name, "strategy", strategy if kind != "fp8" else None)
    _refuse(name, "group-size", group_size if kind not in (*GROUPED, "lut") else None)
    _refuse(name, "asymmetric", asymmetric if kind not in ("int8", "weight-only", "gptq") else None)
    static = activations == "static"
    if kind == "int8":
        weights = WeightFormat("int-quantized", "int", 8, "channel")
        return Scheme(name, weights, _inputs("int", static, symmetric=not asymmetric))
    if kind == "fp8":
        return _fp8(name, strategy or "channel", static)
    if kind == "weight-only":
        return _packed(name, "pack-quantized", int(name[1]), group_size, asymmetric)
    if kind == "lut":
        return _clustered(name, group_size)
    if kind == "gptq":
        return _packed(name, "gptq", int(name[-1]), group_size or GROUP_SIZES[0], asymmetric)
    if kind == "awq":
        return _packed(name, "awq", int(name[-1]), group_size or GROUP_SIZES[0], True)
    if kind == "w4a8":
        layout = "int-quantized" if name == "w4a8" else "pack-quantized"
        packed = _packed(name, layout, 4, group_size or GROUP_SIZES[0], False)
        return replace(packed, inputs=_inputs("int" if name == "w4a8" else "float", False))
    is_nvidia = name.startswith("nv")
    size = 16 if is_nvidia else 32
    layout = f"{name[:5]}-pack-quantized"
    own: Literal["local"] | bool = "local" if is_nvidia else True
    inputs = ActivationFormat("float", 4, "group", own) if name.endswith("a4") else None
    return Scheme(name, WeightFormat(layout, "float", 4, "group", size), inputs)


def embedding_scheme() -> Scheme:
    """The one scheme that transformers loads embeddings in: int8 by row, not packed."""
    return Scheme("w8a16", WeightFormat("int-quantized", "int", 8, "channel"))


def _refuse(name: str, option: str, value: object) -> None:
    if value is not None and value is not False:
        raise UsageError(f"{option} has no meaning for {name}", _OPTIONS[kind_of(name)])


_OPTIONS: dict[Kind, str] = {
    "int8": "w8a8 has activations and asymmetric (inputs)",
    "fp8": "fp8 has activations and strategy",
    "weight-only": "integer weights have group-size and asymmetric",
    "fp4": "the FP4 schemes have no options",
    "w4a8": "w4a8 and w4afp8 have group-size",
    "gptq": "gptqN has group-size and asymmetric",
    "awq": "awq4 has group-size; it always has zero points",
    "lut": "lutN has group-size: rows that share their values",
    "mlx": "",
    "mlx-float": "",
    "gguf": "",
}


def _inputs(
    type_: Literal["int", "float"], static: bool, symmetric: bool = True
) -> ActivationFormat:
    return ActivationFormat(type_, 8, "tensor" if static else "token", not static, symmetric)


def _fp8(name: str, strategy: Sharing, static: bool) -> Scheme:
    if strategy not in get_args(Sharing):
        raise UsageError(f"fp8 has no strategy {strategy!r:.40}", "tensor, channel or block")
    if strategy != "block":
        weights = WeightFormat("float-quantized", "float", 8, strategy)
        return Scheme(name, weights, _inputs("float", static))
    if static:
        raise UsageError(
            "fp8 weights in blocks go with dynamic activations alone",
            "choose channel or tensor for static ones",
        )
    weights = WeightFormat("float-quantized", "float", 8, "block", block=BLOCK)
    return Scheme(name, weights, ActivationFormat("float", 8, "group", True))


def _clustered(name: str, group_size: GroupSize | None) -> Scheme:
    bits = int(name.removeprefix("lut"))
    if group_size is None:
        return Scheme(name, WeightFormat("plain", "values", bits, "tensor"))
    size = 1 if group_size == "channel" else group_size
    if size not in (1, *GROUP_SIZES):
        known = ", ".join(map(str, reversed(GROUP_SIZES)))
        raise UsageError(f"no groups of {group_size!r:.40} rows", f"known: {known} and channel")
    return Scheme(name, WeightFormat("plain", "values", bits, "rows", size))


def _packed(
    name: str, layout: str, bits: int, group_size: GroupSize | None, asymmetric: bool
) -> Scheme:
    form = WeightFormat(layout, "int", bits, "channel", symmetric=not asymmetric)
    if group_size is None:
        group_size = "channel" if bits == 8 else GROUP_SIZES[0]
    if group_size == "channel":
        return Scheme(name, form)
    if group_size not in GROUP_SIZES:
        known = ", ".join(map(str, reversed(GROUP_SIZES)))
        raise UsageError(f"no groups of {group_size!r:.40}", f"known: {known} and channel")
    return Scheme(name, replace(form, strategy="group", group_size=group_size))
