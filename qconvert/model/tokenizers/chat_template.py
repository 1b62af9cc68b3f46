"""Chat templates, from wherever a checkpoint keeps them.

    chat_template.jinja and additional_chat_templates/NAME.jinja   today's form
    tokenizer_config.json's chat_template                          a text, or a list of named ones
    chat_template.json                                             processors of multimodal models

The first that is there counts, as in transformers. GGUF holds the default one under
`tokenizer.chat_template` and further ones under `tokenizer.chat_template.NAME`.
"""

import re
from pathlib import Path
from typing import Any

from qconvert.checkpoint.files import read_small_text
from qconvert.checkpoint.metadata import Metadata, text, texts
from qconvert.errors import CheckpointError
from qconvert.model.tokenizers.files import TokenizerFiles, read_json

DEFAULT = "default"
_NAME = re.compile(r"[a-z0-9_]+", re.IGNORECASE)


def chat_templates(files: TokenizerFiles) -> Metadata:
    """The chat templates as GGUF keys; none where the checkpoint has none.

    Raises:
        CheckpointError: a template is no text.
    """
    found = read_templates(files)
    metadata: Metadata = {}
    names = sorted(name for name in found if name != DEFAULT and _NAME.fullmatch(name))
    if names:
        metadata["tokenizer.chat_templates"] = texts(names)
    for name in names:
        metadata[f"tokenizer.chat_template.{name}"] = text(found[name])
    if DEFAULT in found:
        metadata["tokenizer.chat_template"] = text(found[DEFAULT])
    return metadata


def read_templates(files: TokenizerFiles) -> dict[str, str]:
    """Templates by name; the main one is "default"."""
    found = _directory(files.path)
    if not found:
        found = _templates(files.config.get("chat_template"))
    if not found:
        found = _templates(read_json(files.path / "chat_template.json").get("chat_template"))
    return found


def _directory(path: Path) -> dict[str, str]:
    main = path / "chat_template.jinja"
    files = {DEFAULT: main} if main.is_file() else {}
    for file in sorted((path / "additional_chat_templates").glob("*.jinja")):
        files.setdefault(file.name.removesuffix(".jinja"), file)
    return {
        name: read_small_text(path, str(file.relative_to(path))) for name, file in files.items()
    }


def _templates(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, dict):
        value = [{"name": name, "template": template} for name, template in value.items()]
    if not isinstance(value, list):
        raise CheckpointError("the chat template is neither a text nor a list of templates")
    found: dict[str, str] = {}
    for entry in value:
        name = entry.get("name") if isinstance(entry, dict) else None
        template = entry.get("template") if isinstance(entry, dict) else None
        if not (isinstance(name, str) and isinstance(template, str)):
            raise CheckpointError(f"a chat template has no name or no text: {entry!r}")
        found[name] = template
    return found
