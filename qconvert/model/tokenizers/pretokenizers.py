"""llama.cpp's pre-tokenizer names, recognised from the structure of tokenizer.json.

The `pre_tokenizer` block is flattened into steps, each written as one string:

    a regular expression    the text is split at its matches ("Split", isolated)
    GPT2                    GPT-2's own expression, which "ByteLevel" carries within it
    PUNCTUATION             "Punctuation", contiguous

"Digits" is the expression `\\p{N}` or `\\p{N}+`; "ByteLevel" without its expression only respells
bytes and gives no step. Names that llama.cpp treats alike appear once, under the best known one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.tokenizers import regexes
from qconvert.model.tokenizers.files import block

GPT2 = "<ByteLevel>"
PUNCTUATION = "<Punctuation>"
DIGIT = r"\p{N}"
DIGITS = r"\p{N}+"
LINE_END = r"[\r\n]"


@dataclass(frozen=True)
class Pretokenizer:
    """A way to split text that llama.cpp knows.

    Attributes:
        name: `tokenizer.ggml.pre`.
        steps: what is done to the text, in order.
        ignore_merges: a piece that is a token as a whole is taken before any merge is tried.
    """

    name: str
    steps: tuple[str, ...]
    ignore_merges: bool = False


PRETOKENIZERS = (
    Pretokenizer("gpt-2", (GPT2,)),
    Pretokenizer("smollm", (DIGIT, GPT2)),
    Pretokenizer("llama-bpe", (regexes.LLAMA3,), ignore_merges=True),
    Pretokenizer("dbrx", (regexes.LLAMA3,)),
    Pretokenizer("qwen2", (regexes.QWEN2,)),
    Pretokenizer("qwen35", (regexes.QWEN35,)),
    Pretokenizer("tekken", (regexes.TEKKEN,), ignore_merges=True),
    Pretokenizer("gpt-4o", (regexes.GPT4O,)),
    Pretokenizer("granite-embed-multi-97m", (regexes.GPT4O,), ignore_merges=True),
    Pretokenizer(
        "deepseek-llm",
        (
            LINE_END,
            regexes.DEEPSEEK_LETTERS,
            regexes.DEEPSEEK_SIGNS,
            r"\s+$",
            regexes.DEEPSEEK_HAN,
            DIGITS,
        ),
    ),
    Pretokenizer(
        "deepseek-coder",
        (LINE_END, r"\s?\p{L}+", r"\s?\p{P}+", regexes.DEEPSEEK_HAN, DIGIT),
    ),
    Pretokenizer("deepseek-v3", (r"\p{N}{1,3}", regexes.DEEPSEEK3_HAN, regexes.DEEPSEEK3)),
    Pretokenizer("falcon", (PUNCTUATION, GPT2, DIGITS, "[0-9][0-9][0-9]")),
    Pretokenizer("bloom", (regexes.BLOOM,)),
    Pretokenizer("viking", (regexes.BLOOM, DIGIT)),
    Pretokenizer("superbpe", (DIGITS, r"(?=(\d{3})+(?!\d))")),
    Pretokenizer("seed-coder", (regexes.SEED_CODER,)),
    Pretokenizer("ufakzeka", (regexes.UFAKZEKA,)),
    Pretokenizer("jais-2", (regexes.JAIS2,)),
    Pretokenizer("exaone-moe", (regexes.EXAONE_MOE,)),
    Pretokenizer("minicpm5", (r"\p{N}{1,3}", regexes.MINICPM5), ignore_merges=True),
    Pretokenizer("tiny_aya", (regexes.TINY_AYA_DIGITS, regexes.GPT4O)),
    Pretokenizer("youtu", (regexes.YOUTU_EAST, regexes.YOUTU), ignore_merges=True),
    Pretokenizer("kimi-k2", (regexes.KIMI_K2,)),
    Pretokenizer("laguna", (r"[^\n]+|[\n]+", regexes.QWEN2)),
)

GAPS = {
    "tiny_aya": "words that change from small letters to capitals, and digits before letters",
    "youtu": "words that change from small letters to capitals",
    "kimi-k2": "words that change from small letters to capitals, and combining marks",
}
"""What llama.cpp splits otherwise than the model's own tokenizer does."""

# Spellings of one expression. The possessive forms match the same here, because what follows
# them can never match what they took.
_SPELLINGS = (
    ("\r", r"\r"),
    ("\n", r"\n"),
    ("'(?i:[sdmt]|ll|ve|re)", regexes.CONTRACTIONS),
    ("'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])", regexes.CONTRACTIONS),
    ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", regexes.CONTRACTIONS),
    ("]?+", "]?"),
    ("]++", "]+"),
    (r"\p{N}{1}", r"\p{N}"),
    # The spaces before the last line end include all earlier line ends.
    (r"\s*[\r\n]|", r"\s*[\r\n]+|"),
)


def find_pretokenizer(tokenizer: Mapping[str, Any]) -> Pretokenizer:
    """The pre-tokenizer of a byte-level tokenizer.json.

    Where the steps are known but the model's `ignore_merges` is not the one that llama.cpp has
    under that name, the entry is returned all the same; the caller compares.

    Raises:
        UnsupportedError: llama.cpp has no name for this structure.
    """
    _check_normalizer(block(tokenizer, "normalizer"))
    steps = pretokenizer_steps(block(tokenizer, "pre_tokenizer"))
    ignore_merges = bool(block(tokenizer, "model").get("ignore_merges"))
    entries = [entry for entry in PRETOKENIZERS if entry.steps == steps]
    if not entries:
        # Digits that are never merged may be split one by one.
        entries = [e for e in PRETOKENIZERS if e.name == "deepseek-llm" and _alone(e) == steps]
    if not entries:
        raise UnsupportedError(
            f"tokenizer.json splits text in a way that llama.cpp has no name for: {steps}",
            "known ways: " + ", ".join(entry.name for entry in PRETOKENIZERS),
        )
    exact = [entry for entry in entries if entry.ignore_merges == ignore_merges]
    return (exact or entries)[0]


def pretokenizer_steps(pre_tokenizer: Mapping[str, Any]) -> tuple[str, ...]:
    """The steps of a `pre_tokenizer` block, as the module's docstring writes them.

    Raises:
        UnsupportedError: a step does what llama.cpp cannot.
        CheckpointError: the block has the wrong shape.
    """
    kind = pre_tokenizer.get("type")
    if kind == "Sequence":
        return tuple(step for part in _parts(pre_tokenizer) for step in pretokenizer_steps(part))
    if kind == "ByteLevel":
        if pre_tokenizer.get("add_prefix_space"):
            raise UnsupportedError(
                "tokenizer.json puts a space before the text (add_prefix_space), and llama.cpp "
                "does not for byte-level tokenizers"
            )
        return (GPT2,) if pre_tokenizer.get("use_regex", True) else ()
    if kind == "Digits":
        return (DIGIT if pre_tokenizer.get("individual_digits") else DIGITS,)
    if kind == "Punctuation" and pre_tokenizer.get("behavior") == "Contiguous":
        return (PUNCTUATION,)
    if kind == "Split":
        return (_split_step(pre_tokenizer),)
    raise UnsupportedError(f"tokenizer.json has a pre-tokenizer of an unknown kind: {kind}")


def canonical(regex: str) -> str:
    """One spelling for the expressions that match the same."""
    for spelling, replacement in _SPELLINGS:
        regex = regex.replace(spelling, replacement)
    return regex


def _split_step(split: Mapping[str, Any]) -> str:
    regex = block(split, "pattern").get("Regex")
    # Removing what no match covers, or splitting at what every match leaves, comes to the same.
    inverted = split.get("behavior") == "Removed" and split.get("invert")
    isolated = split.get("behavior") == "Isolated" and not split.get("invert")
    if not isinstance(regex, str) or not (isolated or inverted):
        raise UnsupportedError(f"tokenizer.json splits text in an unknown way: {dict(split)}")
    return canonical(regex)


def _parts(sequence: Mapping[str, Any], key: str = "pretokenizers") -> list[Mapping[str, Any]]:
    parts = sequence.get(key)
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise CheckpointError(f"tokenizer.json has a sequence without {key!r}")
    return parts


def _check_normalizer(normalizer: Mapping[str, Any]) -> None:
    """llama.cpp normalizes nothing here. NFC alone leaves what people and programs write as is."""
    kind = normalizer.get("type")
    if kind == "Sequence":
        for part in _parts(normalizer, "normalizers"):
            _check_normalizer(part)
    elif kind not in (None, "NFC"):
        raise UnsupportedError(
            f"tokenizer.json changes the text before it splits it ({kind}), which llama.cpp does "
            "not for byte-level tokenizers"
        )


def _alone(entry: Pretokenizer) -> tuple[str, ...]:
    return tuple(DIGIT if step == DIGITS else step for step in entry.steps)
