"""TQ1_0 and TQ2_0: blocks of 256 weights, each -d, 0 or +d.

    TQ1_0   qs:48 | qh:4 | d:2     five trits a byte, four in qh
    TQ2_0   qs:64 | d:2            four codes of two bits a byte

Of TQ1_0, byte j of the first 32 holds weights j, j + 32, ... j + 128; of the next 16, weights
160 + j, + 16, ... + 64; of qh, weights 240 + j, + 4, + 8, + 12. The first weight is the trit of
highest value, and the byte is the number, of 243, as a fraction in 256ths, rounded up: the trits
fall out by multiplying. Of TQ2_0, byte j of each 32 holds weights j, j + 32, j + 64, j + 96 of
128, lowest bits first. d is the largest absolute weight; importance has no say, as in ggml.
Source: ggml/src/ggml-common.h, ggml-quants.c.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from qconvert.formats.ggml.legacy import find_peaks, nearest_whole
from qconvert.formats.ggml.planes import Plane, Planes
from qconvert.formats.ggml.scalar import Codes, Params, Scalar, get_half, put_half

BLOCK = 256


@dataclass(frozen=True)
class Trits:
    """The codes of TQ1_0."""

    def pack(self, codes: np.ndarray, out: np.ndarray) -> None:
        from qconvert.kernels import ternary

        packed = np.empty((*out.shape[:-1], ternary.BYTES), np.uint8)
        ternary.pack(codes.reshape(-1), packed.reshape(-1))
        out[..., : ternary.BYTES] = packed

    def unpack(self, blocks: np.ndarray, block: int) -> np.ndarray:
        from qconvert.kernels import ternary

        codes = np.empty((len(blocks), block), np.uint8)
        raw = np.ascontiguousarray(blocks[:, : ternary.BYTES])
        ternary.unpack(raw.reshape(-1), codes.reshape(-1))
        return codes


def write(params: Params, out: np.ndarray) -> None:
    put_half(out, out.shape[-1] - 2, params.d)


def read(blocks: np.ndarray) -> Params:
    return Params(get_half(blocks, blocks.shape[-1] - 2))


def _format(name: str, codes: Codes) -> Scalar:
    return Scalar(
        name,
        size=BLOCK,
        values=(-1, 0, 1),
        codes=codes,
        find=partial(find_peaks, BLOCK, 1),
        nearest=partial(nearest_whole, 1, np.uint8),
        write=write,
        read=read,
    )


TQ1_0 = _format("TQ1_0", Trits())
TQ2_0 = _format("TQ2_0", Planes((Plane(0, 32, 2, 0),)))
