"""tiktoken's vocabularies, which have no tokenizer.json: the bytes of each token with its rank.

    IQ== 0          base64 and a number, a token a line; its rank is its id
    Ig== 1

How a text is split is in the code that comes with the checkpoint, which is not run: it is known by
the class. Special tokens follow the ranks, as `added_tokens_decoder` of tokenizer_config.json says;
those of Kimi that it does not name are called as its code calls them.
"""

from base64 import b64decode
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from qconvert.checkpoint.files import read_small
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.tokenizers import regexes

USUAL, ENDING = "tiktoken.model", ".tiktoken"

SPLITTING = {
    "TikTokenTokenizer": regexes.KIMI_K2,
    "HYTokenizer": regexes.QWEN2,
    "QWenTokenizer": regexes.QWEN2,
}
"""The expression by which a class splits a text."""

RESERVED = {"TikTokenTokenizer": 256}
"""How many special tokens a class has, whether they are named or not."""

MOST_WORK = 1 << 29
"""The squares of all tokens' lengths together: what finding their halves takes."""

MOST_SPECIAL = 1 << 16

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def ranks_file(path: Path) -> Path | None:
    """The file of a directory; None where there is none, or another form of tokenizer."""
    if (path / "tokenizer.json").is_file():
        return None
    if (path / USUAL).is_file():
        return path / USUAL
    return next((one for one in sorted(path.glob(f"*{ENDING}")) if one.is_file()), None)


def read_ranks(file: Path) -> dict[bytes, int]:
    """Every token with its rank, by rank.

    Raises:
        CheckpointError: it is no such file, or ranks are missing.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_small(file.parent, file.name).splitlines(), 1):
        if not line.strip():
            continue
        try:
            text, rank = line.split()
            token = b64decode(text, validate=True)
            at = int(rank)
        except ValueError as error:
            raise CheckpointError(f"{file.name}: line {number} is no token and rank") from error
        if not token or token in ranks or at != len(ranks):
            raise CheckpointError(f"{file.name}: line {number} is no further token with its rank")
        ranks[token] = at
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise CheckpointError(f"{file.name} lacks single bytes")
    if sum(len(token) ** 2 for token in ranks) > MOST_WORK:
        raise CheckpointError(f"{file.name} has tokens that are far too long")
    return ranks


def tokenizer_of_ranks(file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer.json that says the same.

    Args:
        config: tokenizer_config.json.

    Raises:
        UnsupportedError: how a text is split, or which special tokens there are, is not known.
        CheckpointError: see `read_ranks`.
    """
    kind = str(config.get("tokenizer_class", ""))
    if kind not in SPLITTING:
        raise UnsupportedError(
            f"{file.name} does not say how text is split, and the class {kind!r:.60} is not known",
            "save the tokenizer again with transformers, which writes tokenizer.json",
        )
    ranks = read_ranks(file)
    spelled = {token: spell(token) for token in ranks}
    merges = [list(map(spell, pair)) for token in ranks if len(pair := halves(ranks, token)) == 2]
    return {
        "version": "1.0",
        "added_tokens": _special(kind, config, len(ranks)),
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": SPLITTING[kind]},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {**_BYTES, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": _BYTES,
        "model": {
            "type": "BPE",
            "vocab": {spelled[token]: rank for token, rank in ranks.items()},
            "merges": merges,
            "ignore_merges": True,
        },
    }


def halves(ranks: Mapping[bytes, int], token: bytes) -> list[bytes]:
    """What merging leaves of a token's bytes before it is made itself: two parts of each that
    merging leads to."""
    parts, last = [token[at : at + 1] for at in range(len(token))], ranks[token]
    while len(parts) > 2:
        made = [ranks.get(one + other, last) for one, other in pairwise(parts)]
        least = min(made)
        if least >= last:
            break
        at = made.index(least)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _special(kind: str, config: Mapping[str, Any], first: int) -> list[dict[str, Any]]:
    """Of all ids behind the ranks, up to the last that is known."""
    named = config.get("added_tokens_decoder")
    if not isinstance(named, Mapping) or not named:
        raise UnsupportedError(
            f"the special tokens of a {kind} are in its own code: tokenizer_config.json has none",
            "save the tokenizer again with transformers, which writes tokenizer.json",
        )
    if not all(key.isdecimal() and len(key) < 9 for key in named):
        raise CheckpointError("tokenizer_config.json has added tokens whose ids are no numbers")
    stated = {int(key): value for key, value in named.items()}
    last = max([*stated, first + RESERVED.get(kind, 0) - 1])
    if min(stated) < first or last - first > MOST_SPECIAL:
        raise CheckpointError(f"tokenizer_config.json has added tokens that do not follow {first}")
    listed = []
    for number in range(first, last + 1):
        entry = stated.get(number)
        flags = entry if isinstance(entry, Mapping) else {"special": True}
        text = flags.get("content", f"<|reserved_token_{number}|>")
        listed.append(
            {
                "id": number,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": bool(flags.get("special")),
            }
        )
    return listed


def spell(token: bytes) -> str:
    """Bytes as byte-level tokenizers write them."""
    return "".join(map(_SPELLING.__getitem__, token))


def _spelling() -> list[str]:
    """GPT-2's alphabet: bytes that can be seen are themselves, others follow U+0100."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    made, following = [], 0x100
    for byte in range(256):
        made.append(chr(byte if byte in seen else following))
        following += byte not in seen
    return made


_SPELLING = _spelling()
