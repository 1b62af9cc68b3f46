"""The file types: what `-t` accepts, and the format that most of such a file's weights have.

A file type is a base format and a mixture around it (rules.py). The numbers are llama.cpp's
`llama_ftype` (include/llama.h), written to `general.file_type`; the names are those that
llama-quantize accepts for the formats that are known here.
"""

from dataclasses import dataclass
from difflib import get_close_matches

from gguf import LlamaFileType

from qconvert.errors import UsageError


@dataclass(frozen=True)
class FileType:
    """A file type.

    Attributes:
        name: as users type it, "q4_k_m".
        ftype: GGUF's number for it.
        base: the name of the format that its weights have unless the mixture says otherwise.
    """

    name: str
    ftype: LlamaFileType
    base: str

    @property
    def quantized(self) -> bool:
        """Whether the base is a format of blocks, and not a float type."""
        return self.base not in FLOATS


FLOATS = ("F32", "F16", "BF16")

FORMAT_NAMES = (
    *FLOATS,
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ1_S",
    "IQ1_M",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ2_S",
    "IQ3_XXS",
    "IQ3_S",
    "IQ4_NL",
    "IQ4_XS",
    "TQ1_0",
    "TQ2_0",
    "MXFP4",
    "NVFP4",
)

_TYPES = (
    FileType("f32", LlamaFileType.ALL_F32, "F32"),
    FileType("f16", LlamaFileType.MOSTLY_F16, "F16"),
    FileType("bf16", LlamaFileType.MOSTLY_BF16, "BF16"),
    FileType("q8_0", LlamaFileType.MOSTLY_Q8_0, "Q8_0"),
    FileType("q6_k", LlamaFileType.MOSTLY_Q6_K, "Q6_K"),
    FileType("q5_k_m", LlamaFileType.MOSTLY_Q5_K_M, "Q5_K"),
    FileType("q5_k_s", LlamaFileType.MOSTLY_Q5_K_S, "Q5_K"),
    FileType("q5_1", LlamaFileType.MOSTLY_Q5_1, "Q5_1"),
    FileType("q5_0", LlamaFileType.MOSTLY_Q5_0, "Q5_0"),
    FileType("q4_k_m", LlamaFileType.MOSTLY_Q4_K_M, "Q4_K"),
    FileType("q4_k_s", LlamaFileType.MOSTLY_Q4_K_S, "Q4_K"),
    FileType("q4_1", LlamaFileType.MOSTLY_Q4_1, "Q4_1"),
    FileType("q4_0", LlamaFileType.MOSTLY_Q4_0, "Q4_0"),
    FileType("iq4_nl", LlamaFileType.MOSTLY_IQ4_NL, "IQ4_NL"),
    FileType("iq4_xs", LlamaFileType.MOSTLY_IQ4_XS, "IQ4_XS"),
    FileType("mxfp4_moe", LlamaFileType.MOSTLY_MXFP4_MOE, "MXFP4"),
    FileType("nvfp4", LlamaFileType.MOSTLY_NVFP4, "NVFP4"),
    FileType("q3_k_l", LlamaFileType.MOSTLY_Q3_K_L, "Q3_K"),
    FileType("q3_k_m", LlamaFileType.MOSTLY_Q3_K_M, "Q3_K"),
    FileType("q3_k_s", LlamaFileType.MOSTLY_Q3_K_S, "Q3_K"),
    FileType("iq3_m", LlamaFileType.MOSTLY_IQ3_M, "IQ3_S"),
    FileType("iq3_s", LlamaFileType.MOSTLY_IQ3_S, "IQ3_S"),
    FileType("iq3_xs", LlamaFileType.MOSTLY_IQ3_XS, "IQ3_S"),
    FileType("iq3_xxs", LlamaFileType.MOSTLY_IQ3_XXS, "IQ3_XXS"),
    FileType("q2_k", LlamaFileType.MOSTLY_Q2_K, "Q2_K"),
    FileType("q2_k_s", LlamaFileType.MOSTLY_Q2_K_S, "Q2_K"),
    FileType("iq2_m", LlamaFileType.MOSTLY_IQ2_M, "IQ2_S"),
    FileType("iq2_s", LlamaFileType.MOSTLY_IQ2_S, "IQ2_XS"),
    FileType("iq2_xs", LlamaFileType.MOSTLY_IQ2_XS, "IQ2_XS"),
    FileType("iq2_xxs", LlamaFileType.MOSTLY_IQ2_XXS, "IQ2_XXS"),
    FileType("iq1_m", LlamaFileType.MOSTLY_IQ1_M, "IQ1_M"),
    FileType("iq1_s", LlamaFileType.MOSTLY_IQ1_S, "IQ1_S"),
    FileType("tq2_0", LlamaFileType.MOSTLY_TQ2_0, "TQ2_0"),
    FileType("tq1_0", LlamaFileType.MOSTLY_TQ1_0, "TQ1_0"),
)

ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}

FILE_TYPES: dict[str, FileType] = {
    **{kind.name: kind for kind in _TYPES},
    **{alias: kind for alias, name in ALIASES.items() for kind in _TYPES if kind.name == name},
}
"""By name, aliases last. `dict.fromkeys(FILE_TYPES.values())` gives each file type once."""


def find_file_type(name: str) -> FileType:
    """The file type of that name, in any case.

    Raises:
        UsageError: there is none; the hint has the nearest names.
    """
    kind = FILE_TYPES.get(name.lower())
    if kind is None:
        raise UsageError(f"unknown file type {name!r}", nearest(name, tuple(FILE_TYPES)))
    return kind


def find_format(name: str) -> str:
    """ggml's name ("Q4_K") of the format of that name, in any case.

    Raises:
        UsageError: there is none; the hint has the nearest names.
    """
    if name.upper() not in FORMAT_NAMES:
        choices = tuple(known.lower() for known in FORMAT_NAMES)
        raise UsageError(f"unknown tensor type {name!r}", nearest(name, choices))
    return name.upper()


def nearest(name: str, choices: tuple[str, ...]) -> str:
    near = get_close_matches(name.lower(), choices, n=4, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(choices)}"
