"""NVFP4: blocks of 64 weights as 4-bit floats (e2m1), 16 of them to a scale (e4m3), and beside the
tensor a float32 that all of it is multiplied with.

    NVFP4        d:4 | qs:32          x = scale * d[j // 16] * e2m1(q)
    NAME.scale   F32 [matrices]

Of 16 weights byte j of qs holds weight j in its low and weight j + 8 in its high four bits. Codes
and scales are those of compressed-tensors' NVFP4, whose float32 divides where this one multiplies.
llama.cpp multiplies the product with it, in some architectures alone.
Source: ggml/src/ggml-quants.c, ggml-common.h; llama.cpp src/llama-model.cpp (".scale").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qconvert.errors import PlanError
from qconvert.formats.safetensors.fp4 import SCALE_TOP, TOP, Fp4
from qconvert.formats.safetensors.types import Estimator, Params, WeightFormat
from qconvert.formats.types import Arrays, Coded, Grid, Part, Seen, Units, Weights

BLOCK, BYTES = 64, 36
GROUP = 16

VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def _scales() -> np.ndarray:
    """What bytes of scales stand for, float32 [256]: their signs are passed over, and what is no
    number in e4m3 is zero."""
    low, high = np.arange(256) & 7, np.arange(256) >> 3 & 15
    values = np.where(high == 0, low / 512, (1 + low / 8) * np.exp2(high - 7.0))
    values[0x7F] = 0
    return np.asarray(values, np.float32)


SCALES = _scales()

LEAST = -100.0
"""The exponent of the float32, and with the other sign the largest."""

CODES = Fp4(WeightFormat("nvfp4-pack-quantized", "float", 4, "group", GROUP), Estimator(), "F32")
"""How weights become codes and scales, whatever they lie in."""


@dataclass(frozen=True)
class Nvfp4:
    """Weights as float4 in ggml's blocks; `codes` has all but their bytes."""

    codes: Fp4 = CODES

    row_step = 1
    chunk = 0
    needs_peak = True

    def parts(self, shape: tuple[int, int]) -> tuple[Part, ...]:
        rows, columns = shape
        if columns % BLOCK:
            raise PlanError(f"rows of {columns} are no multiple of {BLOCK}")
        width = columns // BLOCK * BYTES
        blocks = Part("weight", (rows, width), "U8", rows * width, True)
        return blocks, Part("scale", (1,), "F32", 4, False)

    def span(self, columns: int) -> int:
        return self.codes.span(columns)

    def fit(self, x: Weights, seen: Seen | None, peak: float | None = None) -> Params:
        """Without a `peak`, the largest of these rows counts."""
        return self.codes.fit(x, seen, _bound(np.abs(x).max(initial=0) if peak is None else peak))

    def join(self, params: Sequence[Params]) -> Params:
        return self.codes.join(params)

    def grid(self, params: Params) -> Grid:
        return self.codes.grid(params)

    def units(self, params: Params) -> tuple[Units, None]:
        return self.codes.units(params)

    def with_units(self, params: Params, step: Units, low: Units | None) -> Params:
        return self.codes.with_units(params, step, low)

    def round(self, x: Weights, params: Params) -> np.ndarray:
        """uint8 [rows, columns]: 0 to 15."""
        return self.codes.round(x, params)

    def pack(self, codes: np.ndarray, params: Params) -> Arrays:
        """Blocks, uint8 [rows, bytes], and what they are multiplied with, float32 [1]."""
        _, scale, whole = self.codes.pack(codes, params)
        halves = codes.reshape(len(codes), -1, BLOCK // GROUP, 2, GROUP // 2)
        blocks = np.empty((len(codes), halves.shape[1], BYTES), np.uint8)
        blocks[..., :4] = scale.reshape(len(codes), -1, BLOCK // GROUP)
        pairs = halves[..., 0, :] | halves[..., 1, :] << 4
        blocks[..., 4:] = pairs.reshape(*blocks.shape[:2], -1)
        return blocks.reshape(len(codes), -1), (1 / whole).astype(np.float32)

    def unpack(self, arrays: Arrays) -> Coded:
        """Where the blocks are alone, they are multiplied with 1."""
        codes, scale = _apart(arrays[0])
        times = arrays[1].reshape(-1)[0] if len(arrays) > 1 else np.float32(1)
        shape = (codes.shape[0], codes.shape[1])
        return Coded(codes, Params(shape, SCALES[scale], None, np.float32(1 / times)))

    def dequantize(self, arrays: Arrays) -> Weights:
        codes, scale = _apart(arrays[0])
        values = VALUES[codes] * np.repeat(SCALES[scale], GROUP, axis=1)
        return values if len(arrays) == 1 else np.asarray(values * arrays[1].reshape(-1)[0])


def _apart(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes, uint8 [rows, columns], and the bytes of their scales, [rows, groups]."""
    blocks = raw.reshape(len(raw), -1, BYTES)
    pairs = blocks[..., 4:].reshape(*blocks.shape[:2], BLOCK // GROUP, GROUP // 2)
    codes = np.stack([pairs & 15, pairs >> 4], axis=-2).reshape(len(blocks), -1)
    return codes, blocks[..., :4].reshape(len(blocks), -1)


def _bound(peak: float) -> float:
    """The least value from `peak` on that makes the float32 a power of two, by which numbers are
    multiplied without a change, before a product or behind it."""
    largest = float(SCALE_TOP * TOP)
    exponent = np.ceil(np.log2(peak / largest)) if peak > 0 else LEAST
    return float(largest * 2.0 ** np.clip(exponent, LEAST, -LEAST))


NVFP4 = Nvfp4()
