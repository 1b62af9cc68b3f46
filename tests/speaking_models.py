"""Tiny models with a tokenizer, for tests that need text."""

from pathlib import Path
from typing import Any

from common import convert_model, save_model
from tokenizer_oracles import byte_level_directory

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
VOCABULARY = 1504
"""More than the tokenizer's, as many models have it."""

PROSE = (
    "The keeper counted the lamps twice, and twice there were nine. Rain came over the hill; "
    "nobody closed the door. In 1871 a letter cost 3 pence, café prices were higher, and the "
    "ferry left at 7:45. 'Who wrote this?' she asked. The old man looked at the sea for a long "
    "time before he answered, and then he said that he did not know.\n"
)


def save_speaking_model(
    path: Path, family: str = "llama", before: str | None = "<|begin|>", **changes: Any
) -> Path:
    """A directory with config.json, weights and a trained byte-level tokenizer.

    Args:
        before: what the tokenizer puts before a text.
    """
    save_model(family, path, vocab_size=VOCABULARY, **changes)
    byte_level_directory(path, BYTE_LEVEL, before=before)
    return path


def convert_speaking_model(path: Path, file_type: str = "f32") -> Path:
    """The same as a GGUF file beside the directory."""
    out = path.with_name(f"{path.name}-{file_type}.gguf")
    convert_model(path, out, file_type)
    return out
