"""The schemes of quantized safetensors: what `-t` accepts beside GGUF's file types.

wNaM: weights of N bits, activations of M bits; 16 stands for the model's own numbers.
"""

from typing import Literal, get_args

from qconvert.errors import UnsupportedError
from qconvert.recipes.file_types import FILE_TYPES, nearest

WEIGHT_ONLY = ("w8a16", "w7a16", "w6a16", "w5a16", "w4a16", "w3a16", "w2a16")
FP4 = ("nvfp4a16", "mxfp4a16")
SCHEMES = ("w8a8", "fp8", *WEIGHT_ONLY, *FP4)

Kind = Literal["gguf", "int8", "fp8", "weight-only", "fp4"]
"""Which options a type has."""

KINDS: tuple[Kind, ...] = get_args(Kind)


def is_scheme(name: str) -> bool:
    """Whether a type is one of safetensors, in any case."""
    return name.lower() in SCHEMES


def find_type(name: str) -> str:
    """The name of the file type or scheme, in small letters.

    Raises:
        UnsupportedError: there is none; the hint has the nearest names.
    """
    small = name.lower()
    if small in SCHEMES:
        return small
    if small in FILE_TYPES:
        return FILE_TYPES[small].name
    raise UnsupportedError(f"unknown type {name!r:.60}", nearest(name, (*FILE_TYPES, *SCHEMES)))


def find_scheme(name: str) -> str:
    """The name of the scheme, in small letters.

    Raises:
        UnsupportedError: there is none; the hint has the nearest names.
    """
    if not is_scheme(name):
        raise UnsupportedError(f"unknown scheme {name!r:.60}", nearest(name, SCHEMES))
    return name.lower()


def kind_of(name: str) -> Kind:
    """The kind of a type that `find_type` knows."""
    small = name.lower()
    if small in WEIGHT_ONLY:
        return "weight-only"
    if small in FP4:
        return "fp4"
    return "int8" if small == "w8a8" else "fp8" if small == "fp8" else "gguf"
