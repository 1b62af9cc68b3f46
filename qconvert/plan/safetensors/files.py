"""The small files beside the weights: those of the source that stay true, as they are.

Tokenizer, chat template, generation settings, sentence-transformers' modules, licenses. Nothing
that can be run, no weights of other formats, and nothing that a link leads out of the checkpoint.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from qconvert.checkpoint.files import parse_json, read_small
from qconvert.errors import CheckpointError

NAMES = """
tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json vocab.txt
merges.txt tokenizer.model spiece.model sentencepiece.bpe.model tekken.json chat_template.jinja
chat_template.json generation_config.json preprocessor_config.json processor_config.json
image_processor_config.json modules.json config_sentence_transformers.json
sentence_bert_config.json
"""
LICENSE = re.compile(r"(LICENSE|LICENCE|NOTICE|USE_POLICY)[\w.-]{0,20}", re.IGNORECASE)

IN_MODULES = ("config.json", "model.safetensors")
"""What a module of sentence-transformers has in its own directory."""


def small_files(directory: Path) -> dict[str, bytes]:
    """What is copied from a checkpoint's directory, by name.

    Raises:
        CheckpointError: a link leads out of it, or a file is too large or cannot be read.
    """
    files = {}
    for entry in sorted(directory.iterdir(), key=lambda path: path.name):
        if entry.name in NAMES.split() or (LICENSE.fullmatch(entry.name) and _is_text(entry)):
            files[entry.name] = read_small(directory, entry.name)
    for name in _module_files(directory, files.get("modules.json")):
        files[name] = read_small(directory, name)
    return files


def _is_text(path: Path) -> bool:
    return path.is_file() and path.suffix in ("", ".md", ".txt")


def _module_files(directory: Path, modules: bytes | None) -> Iterator[str]:
    """The files of sentence-transformers' modules, such as 1_Pooling/config.json."""
    if modules is None:
        return
    listed = parse_json(modules, "modules.json")
    if not isinstance(listed, list):
        raise CheckpointError("modules.json is no list")
    for module in listed:
        folder = module.get("path") if isinstance(module, dict) else None
        if not isinstance(folder, str) or not re.fullmatch(r"[\w-]{1,100}", folder):
            continue
        for name in IN_MODULES:
            if (directory / folder / name).is_file():
                yield f"{folder}/{name}"
