"""The formats that can be written, and reading of these and of all others that gguf knows."""

import numpy as np
from gguf import GGMLQuantizationType

from qconvert.errors import UnsupportedError
from qconvert.formats.floats import BF16, F16, F32
from qconvert.formats.ggml.i_quants import IQ4_NL, IQ4_XS
from qconvert.formats.ggml.iq1 import IQ1_M, IQ1_S
from qconvert.formats.ggml.iq2 import IQ2_S, IQ2_XS, IQ2_XXS
from qconvert.formats.ggml.iq3 import IQ3_S, IQ3_XXS
from qconvert.formats.ggml.k_quants import Q2_K, Q3_K, Q4_K, Q5_K, Q6_K
from qconvert.formats.ggml.legacy import Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
from qconvert.formats.ggml.mxfp4 import MXFP4
from qconvert.formats.ggml.nvfp4 import NVFP4
from qconvert.formats.ggml.ternary import TQ1_0, TQ2_0
from qconvert.formats.types import Format

FORMATS: dict[str, Format] = {
    "F32": F32,
    "F16": F16,
    "BF16": BF16,
    "Q4_0": Q4_0,
    "Q4_1": Q4_1,
    "Q5_0": Q5_0,
    "Q5_1": Q5_1,
    "Q8_0": Q8_0,
    "Q2_K": Q2_K,
    "Q3_K": Q3_K,
    "Q4_K": Q4_K,
    "Q5_K": Q5_K,
    "Q6_K": Q6_K,
    "IQ1_S": IQ1_S,
    "IQ1_M": IQ1_M,
    "IQ2_XXS": IQ2_XXS,
    "IQ2_XS": IQ2_XS,
    "IQ2_S": IQ2_S,
    "IQ3_XXS": IQ3_XXS,
    "IQ3_S": IQ3_S,
    "IQ4_NL": IQ4_NL,
    "IQ4_XS": IQ4_XS,
    "TQ1_0": TQ1_0,
    "TQ2_0": TQ2_0,
    "MXFP4": MXFP4,
    "NVFP4": NVFP4,
}


def dequantize_any(raw: np.ndarray, dtype: str) -> np.ndarray:
    """The weights of any type that a GGUF file may hold.

    Args:
        raw: uint8 [rows, row_bytes], C order; whole blocks.
        dtype: ggml's name of the type, "IQ2_XS".

    Returns:
        float32 [rows, columns].

    Raises:
        UnsupportedError: for a type that neither this program nor gguf can read.
    """
    if dtype in FORMATS:
        return FORMATS[dtype].dequantize((raw,))
    from gguf.quants import dequantize

    hint = "known are " + ", ".join(FORMATS) + ", and what the gguf package reads"
    try:
        values = dequantize(raw, GGMLQuantizationType[dtype])
    except (KeyError, NotImplementedError) as error:
        raise UnsupportedError(f"type {dtype} cannot be dequantized", hint) from error
    return np.ascontiguousarray(values, np.float32)
