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
from qconvert.formats.safetensors.fp4 import Fp4
from qconvert.formats.safetensors.types import Estimator, Params, WeightFormat
from qconvert.formats.types import Arrays, Coded, Grid, Part, Seen, Units, Weights

BLOCK, BYTES = 64, 36
GROUP = 16

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
        return self.codes.fit(x, seen, peak)

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
        blocks = arrays[0].reshape(len(arrays[0]), -1, BYTES)
        pairs = blocks[..., 4:].reshape(*blocks.shape[:2], BLOCK // GROUP, GROUP // 2)
        codes = np.stack([pairs & 15, pairs >> 4], axis=-2).reshape(len(blocks), -1)
        scale = np.ascontiguousarray(blocks[..., :4]).reshape(len(blocks), -1)
        times = arrays[1].reshape(-1)[:1] if len(arrays) > 1 else np.ones(1, np.float32)
        packed = codes[:, 0::2] | codes[:, 1::2] << 4
        return self.codes.unpack((packed, scale, (1 / times).astype(np.float32)))

    def dequantize(self, arrays: Arrays) -> Weights:
        codes, params = self.unpack(arrays[:1])
        plain = self.codes.dequantize(self.codes.pack(codes, params))
        if len(arrays) == 1:
            return plain
        return np.asarray(plain * arrays[1].reshape(-1)[0], np.float32)


NVFP4 = Nvfp4()
