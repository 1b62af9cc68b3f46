"""A checkpoint's tokenizer, through transformers, and what it puts around a text.

Only files of the checkpoint's directory are read, and no code from it is run.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from qconvert.checkpoint.files import read_small
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError
from qconvert.model.reverse import describe
from qconvert.model.tokenizers.export import json_bytes, tokenizer_files
from qconvert.model.tokenizers.files import read_files
from qconvert.model.tokenizers.library import HINT, check_tokenizer, guarded, silent
from qconvert.model.tokenizers.ranks import ranks_file
from qconvert.model.tokenizers.stored import read_stored
from qconvert.text.bounded import BrokenError, ask, limit, within
from qconvert.text.documents import sound

WINDING = "x" * 60 + " a" * 60 + "1" * 60 + " " * 60 + "_" * 60 + "!"

FIRST, EACH = 5, 20e-6
"""Seconds of computing that a text may take, and what is added for each of its characters: the
slowest tokenizers, which are written in Python, take a tenth of it."""

LOADING, MEMORY = 60, 16 << 30
"""Seconds and bytes of address space for a tokenizer that is first loaded in another process."""


@dataclass(frozen=True)
class Tokenizer:
    """A loaded tokenizer.

    Attributes:
        inner: transformers' object.
        before, after: ids that it puts before and after each text ([BOS]; [CLS] and [SEP]).
        between: ids that end a document where another follows: the end-of-text token, else the
            separator, else an empty line.
    """

    inner: Any
    before: tuple[int, ...]
    after: tuple[int, ...]
    between: tuple[int, ...]


FILES = (
    "tiktoken.model",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "tokenizer_config.json",
)


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether there is anything of a tokenizer."""
    if checkpoint.container == "gguf":
        return "tokenizer.ggml.tokens" in checkpoint.metadata
    home = _home(checkpoint)
    return any((home / name).is_file() for name in FILES) or ranks_file(home) is not None


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer in a checkpoint's directory, or in a GGUF file.

    Raises:
        CheckpointError: there is none, or transformers cannot read it.
        UnsupportedError: a GGUF file's tokenizer is of a kind that is not known.
    """
    if not has_tokenizer(checkpoint):
        # transformers would make one with an empty vocabulary for some families.
        raise CheckpointError(f"{checkpoint.source} has no tokenizer", HINT)
    with _directory(checkpoint) as directory:
        if check_tokenizer(directory):
            _try(directory, checkpoint.source)
        with guarded(checkpoint.source), silent():
            inner = _load(directory)
            _ids(inner, [WINDING], False)
            plain = _ids(inner, ["a"], False)[0]
            framed = _ids(inner, ["a"], True)[0]
    if not plain:
        raise CheckpointError(f"{checkpoint.source}: its tokenizer makes nothing of a text", HINT)
    start = _find(plain, framed)
    return Tokenizer(
        inner,
        tuple(framed[:start]),
        tuple(framed[start + len(plain) :]),
        _between(inner),
    )


def encode(tokenizer: Tokenizer, texts: Sequence[str], plain: bool = False) -> list[np.ndarray]:
    """The ids of each text, int32, with nothing put around them.

    Args:
        plain: special tokens that are spelled out in a text are letters like others.
    """
    if not texts:
        return []
    with guarded("the checkpoint"), silent():
        found = _ids(tokenizer.inner, [sound(text) for text in texts], False, plain)
    return [np.array(ids, np.int32) for ids in found]


def first_difference(own: Tokenizer, other: Tokenizer) -> str:
    """The first token that two tokenizers have as something else, in words, whatever one of them
    has more of; empty where they are alike."""
    sizes = [len(one.inner) for one in (own, other)]
    names = [one.inner.convert_ids_to_tokens(list(range(min(sizes)))) for one in (own, other)]
    for number, (mine, its) in enumerate(zip(*names, strict=True)):
        if mine != its:
            return f"token {number} is {mine!r:.40}, and {its!r:.40}"
    if own.before != other.before:
        return f"texts begin with the tokens {list(own.before)}, and {list(other.before)}"
    return ""


@contextmanager
def _directory(checkpoint: Checkpoint) -> Iterator[Path]:
    """A directory with the tokenizer's files: those of a GGUF file, and of bytes with ranks, which
    transformers reads with code of theirs alone, are made for the while."""
    if checkpoint.container == "huggingface":
        home = _home(checkpoint)
        if ranks_file(home) is None:
            yield home
            return
        with TemporaryDirectory(prefix="qconvert-") as folder:
            for name, data in _loadable(home).items():
                (Path(folder) / name).write_bytes(data)
            yield Path(folder)
        return
    config = describe(checkpoint).config
    stored = read_stored(checkpoint.metadata, config["vocab_size"])
    if stored is None:
        raise CheckpointError(f"{checkpoint.source} has no tokenizer", HINT)
    with TemporaryDirectory(prefix="qconvert-") as folder:
        files = tokenizer_files(stored, config["max_position_embeddings"])
        for name, data in files.items():
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        yield Path(folder)


def _loadable(home: Path) -> dict[str, bytes]:
    """The files of a tokenizer that is stored as bytes with ranks."""
    files = read_files(home, {})
    config = {key: value for key, value in files.config.items() if key not in CODE}
    made = {"tokenizer.json": json_bytes(files.tokenizer)}
    made["tokenizer_config.json"] = json_bytes({**config, "tokenizer_class": AS_IT_STANDS})
    for template in home.glob("*.jinja"):
        made[template.name] = read_small(home, template.name)
    return made


CODE = ("auto_map", "added_tokens_decoder")
"""What belongs to a class's own code, and what tokenizer.json has."""

AS_IT_STANDS = "PreTrainedTokenizerFast"
"""The class that reads tokenizer.json and knows nothing else."""


def _home(checkpoint: Checkpoint) -> Path:
    return checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent


def _load(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def _try(directory: Path, source: str) -> None:
    """Load a tokenizer where it may take as long as it will: loading cannot be interrupted."""
    try:
        ask("qconvert.text.tokenizer", {"directory": str(directory.absolute())}, LOADING)
    except BrokenError as error:
        raise CheckpointError(
            f"{source}: its tokenizer takes more than {LOADING} seconds to load, or breaks its "
            "process",
            HINT,
        ) from error


def main() -> None:
    """The process that tries; what a tokenizer raises is told when it is loaded to be used."""
    import transformers

    request = json.load(sys.stdin)
    limit(LOADING, MEMORY)
    with suppress(Exception):
        _load(Path(request["directory"]))
    json.dump({"transformers": transformers.__version__}, sys.stdout)


def call(inner: Any, texts: list[str], **options: Any) -> list[list[int]]:
    """The ids that transformers' object gives to each text, in bounded time.

    Raises:
        CheckpointError: it takes longer than any that is in use.
    """
    length = sum(map(len, texts))
    seconds = FIRST + EACH * length
    options = {"truncation": False, "padding": False, "verbose": False, **options}
    try:
        found: list[list[int]] = within(seconds, lambda: inner(texts, **options)["input_ids"])
    except BrokenError as error:
        raise CheckpointError(
            f"the tokenizer takes more than {seconds:.0f} seconds of computing for "
            f"{length:,} characters",
            "its normalizer, pre_tokenizer or merges have no bound in time: take the tokenizer "
            "that the model was published with",
        ) from error
    return found


def _ids(inner: Any, texts: list[str], special: bool, plain: bool = False) -> list[list[int]]:
    return call(inner, texts, add_special_tokens=special, split_special_tokens=plain)


def _find(plain: list[int], framed: list[int]) -> int:
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain:
            return start
    return 0


def _between(inner: Any) -> tuple[int, ...]:
    for number in (inner.eos_token_id, inner.sep_token_id):
        if number is not None:
            return (number,)
    return tuple(_ids(inner, ["\n\n"], False)[0])


if __name__ == "__main__":
    main()
