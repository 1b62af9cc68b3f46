"""F32, F16 and BF16 as GGUF stores them, and what checkpoints hold, read as float32.

Weights lie one after the other, little-endian: 4 bytes of IEEE 754 binary32, 2 bytes of
binary16, or the upper 2 bytes of a binary32. Narrowing rounds to nearest, ties to even; what is
too large for binary16 becomes infinite.
Source: ggml/src/ggml-impl.h; for float8, the OCP 8-bit floating point specification (OFP8).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from qconvert.errors import UnsupportedError
from qconvert.formats.types import Arrays, Part, Seen, Units, Weights

_BY_CAST = {
    "F64": "<f8",
    "I8": "i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "BOOL": "?",
}
_FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E8M0")


def to_float32(raw: np.ndarray, dtype: str) -> np.ndarray:
    """The values of a tensor's bytes.

    Args:
        raw: uint8 [bytes], contiguous, of any alignment; read only is fine.
        dtype: safetensors' name of it, "BF16". Scales of float8 are the caller's.

    Returns:
        float32 [elements]; for F32 a view of `raw` where its alignment allows it.

    Raises:
        UnsupportedError: for a dtype that is not known.
    """
    if dtype == "F32":
        return _aligned(raw, "<f4")
    if dtype == "F16":
        return _half_to_float(_aligned(raw, "<u2"))
    if dtype == "BF16":
        return _bfloat_to_float(_aligned(raw, "<u2"))
    if dtype in _FLOAT8:
        return _float8_to_float(raw, float8_values(dtype))
    if dtype in _BY_CAST:
        with np.errstate(over="ignore", invalid="ignore"):
            return _aligned(raw, _BY_CAST[dtype]).astype(np.float32)
    raise UnsupportedError(
        f"dtype {dtype} cannot be read",
        "known are F64, F32, F16, BF16, F8_E4M3, F8_E5M2 and integers",
    )


def measure(x: np.ndarray) -> tuple[int, float]:
    """How many of float32 `x` (contiguous, any shape) are NaN or infinite, and the largest
    absolute value of the others."""
    from qconvert.kernels import floats

    nonfinite, largest = floats.measure(x.reshape(-1).view(np.uint32))
    return int(nonfinite), float(largest)


def _aligned(raw: np.ndarray, dtype: str) -> np.ndarray:
    """A view of bytes as `dtype`; a copy where they do not lie on its boundary."""
    values = raw.view(dtype)
    return values if values.flags.aligned else values.copy()


def _half_to_float(halves: np.ndarray) -> np.ndarray:
    from qconvert.kernels import floats

    out = np.empty(halves.size, np.float32)
    floats.half_to_float(halves, out)
    return out


def _bfloat_to_float(upper: np.ndarray) -> np.ndarray:
    from qconvert.kernels import floats

    out = np.empty(upper.size, np.float32)
    floats.bfloat_to_float(upper, out.view(np.uint32))
    return out


def _float8_to_float(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    from qconvert.kernels import floats

    out = np.empty(codes.size, np.float32)
    floats.look_up(codes, table, out)
    return out


@cache
def float8_values(dtype: str) -> np.ndarray:
    """The 256 values of a dtype of 8 bits, float32.

    e4m3fn has a bias of 7, no infinities, and NaN where all other bits are set; e5m2 is the upper
    half of a binary16; e8m0 are powers of two from -127 on, the last one NaN.
    """
    codes = np.arange(256, dtype=np.uint16)
    if dtype == "F8_E5M2":
        return (codes << 8).view(np.float16).astype(np.float32)
    if dtype == "F8_E8M0":
        return np.append(np.ldexp(1.0, np.arange(255) - 127), np.nan).astype(np.float32)
    exponent, mantissa = codes[:128] >> 3, codes[:128] & 7
    normal = (8 + mantissa) * 2.0 ** (exponent.astype(float) - 10)
    positive = np.where(exponent == 0, mantissa * 2.0**-9, normal)
    positive[127] = np.nan
    return np.concatenate([positive, -positive]).astype(np.float32)


@dataclass(frozen=True)
class Floats:
    """Weights as floats, one after the other: rounding is all there is.

    Attributes:
        name: "F32", "F16" or "BF16".
    """

    name: str

    row_step = 1
    needs_peak = False
    chunk = 0

    def parts(self, shape: tuple[int, int]) -> tuple[Part, ...]:
        rows, columns = shape
        width = columns * _BYTES[self.name]
        return (Part("weight", (rows, width), "U8", rows * width, True),)

    def span(self, columns: int) -> int:
        return columns

    def fit(self, x: Weights, seen: Seen | None, peak: float | None = None) -> None:
        return None

    def join(self, params: Sequence[None]) -> None:
        return None

    def grid(self, params: None) -> None:
        return None

    def units(self, params: None) -> None:
        return None

    def with_units(self, params: None, step: Units, low: Units | None) -> None:
        return None

    def round(self, x: Weights, params: None) -> np.ndarray:
        """float32, or uint16: the bits of the narrower ones."""
        from qconvert.kernels import floats

        if self.name == "F32":
            return x
        codes = np.empty(x.shape, np.uint16)
        if self.name == "F16":
            floats.float_to_half(x.reshape(-1), codes.reshape(-1))
        else:
            floats.float_to_bfloat(x.reshape(-1).view(np.uint32), codes.reshape(-1))
        return codes

    def pack(self, codes: np.ndarray, params: None) -> Arrays:
        return (codes.view(np.uint8),)

    def unpack(self, arrays: Arrays) -> None:
        return None

    def dequantize(self, arrays: Arrays) -> Weights:
        raw = np.ascontiguousarray(arrays[0])
        columns = raw.shape[1] // _BYTES[self.name]
        return to_float32(raw.reshape(-1), self.name).reshape(len(raw), columns)


_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
F32 = Floats("F32")
F16 = Floats("F16")
BF16 = Floats("BF16")
