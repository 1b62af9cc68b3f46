"""What training programs put before or into the names of tensors, taken off again.

_orig_mod.            torch.compile, at any level
module.               data parallelism
base_model.model.     PEFT
language_model.       a multimodal model of which the text model alone was saved
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError

COMPILED = "_orig_mod."
ROOTS = ("model", "transformer", "bert", "roberta", "distilbert", "gpt_neox", "backbone")
HEADS = ("lm_head", "embed_out")
TOPS = (*ROOTS, *HEADS, "embeddings", "encoder", "embed_tokens", "wte")
"""What the names of a model's tensors begin with; of those with a head and those alone."""

TEXT_MODEL = re.compile(r"^(model\.)?language_model\.(?:model\.|(?=lm_head\.))?")


def unwrapped(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]
) -> tuple[Mapping[str, TensorInfo], tuple[str, ...]]:
    """The tensors by the names that their class looks for, and what was done, in words.

    Raises:
        CheckpointError: two tensors have one name then.
    """
    short = {name: name.replace(COMPILED, "") for name in tensors}
    taken = [COMPILED] if any(name != own for name, own in short.items()) else []
    while prefix := _common(list(short.values())):
        short = {name: own.removeprefix(prefix) for name, own in short.items()}
        taken.append(prefix)
    if "text_config" not in config:
        inner = {name: _of_text_model(own) for name, own in short.items()}
        if inner != short:
            taken.append("language_model.")
            short = inner
    if not taken:
        return tensors, ()
    if len(set(short.values())) != len(short):
        raise CheckpointError(
            f"without {''.join(taken)!r} two tensors have one name",
            "the checkpoint holds several models: keep one of them",
        )
    renamed = {short[name]: replace(info, name=short[name]) for name, info in tensors.items()}
    return renamed, (f"names of tensors are read without {''.join(taken)!r}",)


def _common(names: list[str]) -> str:
    """A first part that all names have and no model begins with, and its dot; else ""."""
    first, dot, _ = names[0].partition(".")
    if not dot or not all(name.startswith(first + dot) for name in names):
        return ""
    seconds = {name.split(".")[1] for name in names}
    is_root = first in TOPS or first == "language_model"
    wanted = {*ROOTS, *HEADS} if is_root else {*TOPS, "language_model"}
    if first == "distilbert":
        wanted.remove("transformer")  # which is a part of it
    follows = bool(seconds & wanted) or (not is_root and _only_wraps(names))
    return first + dot if follows else ""


def _only_wraps(names: list[str]) -> bool:
    """Whether the second parts too are one that wraps."""
    return bool(_common([name.partition(".")[2] for name in names]))


def _of_text_model(name: str) -> str:
    match = TEXT_MODEL.match(name)
    if match is None:
        return name
    rest = name[match.end() :]
    return rest if rest.startswith("lm_head.") else "model." + rest
