"""Tiny models that write: random weights, and a tokenizer that was trained on the spot."""

import json
from pathlib import Path
from typing import Any

from checkpoints import BYTES
from common import convert_model, save_model
from tokenizer_oracles import byte_level_directory

BEGIN, END = "<|begin|>", "<|end|>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def write_model(
    path: Path,
    *,
    template: str = TEMPLATE,
    end: int = 1,
    family: str = "llama",
    **changes: Any,
) -> Path:
    """A directory as transformers has it: 323 tokens, in float32.

    Args:
        template: of chats; "" for a base model.
        end: the token that ends an answer.
        changes: of the tiny model's configuration.
    """
    save_model(family, path, **changes)
    byte_level_directory(path, BYTES, size=321, special=(BEGIN, END), before=BEGIN)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((path / name).read_text())
        settings |= {"bos_token_id": 0, "eos_token_id": end, "pad_token_id": None}
        (path / name).write_text(json.dumps(settings))
    if end != 1:
        # The tokenizer's word goes before the configuration's.
        from transformers import AutoTokenizer

        settings = json.loads((path / "tokenizer_config.json").read_text())
        settings["eos_token"] = AutoTokenizer.from_pretrained(path).convert_ids_to_tokens(end)
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
    if template:
        (path / "chat_template.jinja").write_text(template)
    return path


def write_gguf(model: Path, path: Path, file_type: str = "f32") -> Path:
    convert_model(model, path, file_type)
    return path
