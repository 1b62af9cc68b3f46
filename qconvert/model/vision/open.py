"""What a multimodal checkpoint means to the file of its vision part: `open_vision`.

checkpoint's tensors -> GGUF's tensors and keys
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qconvert.checkpoint import Checkpoint
from qconvert.checkpoint.metadata import Metadata, text
from qconvert.errors import UnsupportedError, shorten
from qconvert.model.general import general_metadata
from qconvert.model.open import notice_quantized
from qconvert.model.tokenizers.files import read_json
from qconvert.model.types import TensorMap
from qconvert.model.vision import find_projector
from qconvert.model.vision.mapping import map_lines
from qconvert.model.vision.types import Extras

ARCHITECTURE, KIND = "clip", "mmproj"
AUDIO = ("audio_tower.", "embed_audio.")
PREPARED = ("preprocessor_config.json", "processor_config.json")
"""Later ones count before earlier; either may have what is asked for in a part of its own."""


@dataclass(frozen=True)
class Vision:
    """The vision part of a checkpoint under GGUF's names.

    Attributes:
        fixed: types of tensors that have one, whatever is asked for.
        left_out: tensors of the tower that the file has no place for.
        unknown: those of them of which nothing is known.
    """

    checkpoint: Checkpoint
    tensors: tuple[TensorMap, ...]
    metadata: Metadata
    fixed: Mapping[str, str]
    left_out: tuple[str, ...]
    unknown: tuple[str, ...]
    notices: tuple[str, ...]


def open_vision(checkpoint: Checkpoint) -> Vision:
    """The vision part of a checkpoint.

    Raises:
        UnsupportedError: it is a GGUF file, its tower is not known, or llama.cpp would see other
            things than transformers.
        PlanError: tensors are missing or do not fit the configuration.
        CheckpointError: the configuration, or a file beside it, cannot be read.
    """
    if checkpoint.container == "gguf":
        raise UnsupportedError(
            f"{checkpoint.source} is a GGUF file, and these have no vision tower",
            "name the Hugging Face checkpoint that it was made of",
        )
    config, path = checkpoint.config, checkpoint.path
    projector = find_projector(config)
    projector.limits(config)
    extras = Extras(_images(path), partial(_tokens, path))
    keys = projector.metadata(config, extras)
    lines = projector.lines(config, extras)
    tensors, left_out, unknown = map_lines(projector, lines, checkpoint.tensors)
    codes = {i.dtype for i in map(checkpoint.tensors.__getitem__, _used(tensors)) if i.codes}
    return Vision(
        checkpoint,
        tensors,
        {**_general(checkpoint, tensors), **keys},
        projector.fixed,
        left_out,
        unknown,
        (
            *projector.caveats(config),
            *checkpoint.notices,
            *_notice_audio(checkpoint),
            *notice_quantized(codes),
        ),
    )


def _used(tensors: tuple[TensorMap, ...]) -> list[str]:
    return [part.source for tensor in tensors for part in tensor.parts]


def _general(checkpoint: Checkpoint, tensors: tuple[TensorMap, ...]) -> Metadata:
    """What the model is; how it would write is the language model's matter."""
    keys = general_metadata(checkpoint.path, checkpoint.source, ARCHITECTURE, tensors)
    kept = {key: field for key, field in keys.items() if not key.startswith("general.sampling.")}
    return {**kept, "general.type": text(KIND)}


def _images(path: Path) -> Mapping[str, Any]:
    """How images are prepared."""
    found: dict[str, Any] = {}
    for name in PREPARED:
        told = read_json(path / name)
        parts = (told, told.get("media_proc_cfg"), told.get("image_processor"))
        for part in parts:
            found |= part if isinstance(part, Mapping) else {}
    return found


def _tokens(path: Path) -> Mapping[str, int]:
    """The numbers of added tokens."""
    added = read_json(path / "tokenizer.json").get("added_tokens")
    entries = [(one.get("content"), one.get("id")) for one in _objects(added)]
    decoder = read_json(path / "tokenizer_config.json").get("added_tokens_decoder")
    if isinstance(decoder, Mapping):
        named = ((str(key), one) for key, one in decoder.items() if isinstance(one, Mapping))
        entries += [(o.get("content"), int(k)) for k, o in named if k.isdecimal() and len(k) < 10]
    return {word: at for word, at in entries if isinstance(word, str) and type(at) is int}


def _objects(found: object) -> list[Mapping[str, Any]]:
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _notice_audio(checkpoint: Checkpoint) -> tuple[str, ...]:
    heard = [name for name in checkpoint.tensors if name.removeprefix("model.").startswith(AUDIO)]
    if not heard:
        return ()
    return (
        f"{len(heard)} tensors that hear are left out, and the file reads images alone: "
        f"{shorten(heard)}",
    )
