"""Tiny checkpoints that have a tokenizer, and a watcher that remembers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizer_oracles import byte_level_directory

from qconvert.checkpoint.types import Checkpoint

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 1502,
    "max_position_embeddings": 512,
}


class Notes(list[str]):
    """A watcher."""

    def note(self, message: str) -> None:
        self.append(message)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture(scope="session")
def tokenizer_files(tmp_path_factory) -> Callable[[str | None], Path]:
    """A trained byte-level tokenizer, with a token before each text or without."""
    made: dict[str | None, Path] = {}

    def make(before: str | None) -> Path:
        if before not in made:
            path = tmp_path_factory.mktemp("tokenizer")
            made[before] = byte_level_directory(path, BYTE_LEVEL, before=before)
        return made[before]

    return make


@pytest.fixture
def model(tmp_path, tokenizer_files) -> Callable[..., Checkpoint]:
    """A checkpoint without weights."""

    def make(before: str | None = "<|begin|>", template: str = "", **config: Any) -> Checkpoint:
        path = tmp_path / "model"
        path.mkdir()
        for file in tokenizer_files(before).iterdir():
            (path / file.name).write_bytes(file.read_bytes())
        settings = {**CONFIG, **config}
        (path / "config.json").write_text(json.dumps(settings))
        if template:
            (path / "chat_template.jinja").write_text(template)
        return Checkpoint("huggingface", "tiny", path, settings)

    return make
