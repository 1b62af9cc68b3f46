"""What a checkpoint means, derived once: `open_model`. Nothing else maps names.

checkpoint's tensors -> GGUF's tensors          `tensors`, `metadata`
                     -> Hugging Face's weights  `weights`, `config`
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gguf import GGUFValueType

from qconvert.checkpoint import Checkpoint, fingerprint
from qconvert.checkpoint.metadata import Field, Metadata, text
from qconvert.containers.gguf import pairs_bytes
from qconvert.errors import UnsupportedError, shorten
from qconvert.model.caveats import caveats
from qconvert.model.dense import dense_keys, dense_notices, dense_tensors
from qconvert.model.families import architecture_of_file, find_family
from qconvert.model.families.parts.common import text_config
from qconvert.model.families.qwen.reranker import as_reranker, is_reranker
from qconvert.model.general import card_notices, general_metadata
from qconvert.model.mapping import (
    EMBEDDING,
    OUTPUT_WEIGHT,
    map_tensors,
    predicts,
    tied_name,
    unknown_to,
)
from qconvert.model.numbers import number_keys
from qconvert.model.pooling import pooling_metadata
from qconvert.model.reverse import Description, describe
from qconvert.model.tokenizers.tokenizer import Tokenizer, has_tokenizer, read_tokenizer
from qconvert.model.types import Family, Rows, TensorMap
from qconvert.model.vision import reads_images
from qconvert.model.weights import Weight, weights_of_directory, weights_of_file

FILE_KEYS = (
    "general.alignment",
    "general.file_type",
    "general.quantization_version",
    "general.quantized_by",
    "quantize.imatrix.",
    "qconvert.",
    "split.",
)
"""How the keys begin that describe a file and not the model in it."""

UNREAD = "0" * 64
"""A sketch's fingerprint."""

NO_TOKENIZER = "the source has no tokenizer: the output will have none"


@dataclass(frozen=True)
class Model:
    """A checkpoint under the names of both sides, whatever its container. Nothing about types is
    decided yet, and what takes reading (tokenizers, tables) is read when it is asked for.

    Attributes:
        architecture: `general.architecture`.
        tensors: how each GGUF tensor is made.
        left_out: tensors of the checkpoint that GGUF has no place for.
        is_sketch: nothing is read but headers; what is made of it may be looked at alone.
    """

    checkpoint: Checkpoint
    architecture: str
    tensors: tuple[TensorMap, ...]
    left_out: tuple[str, ...] = ()
    _family: Family | None = field(default=None, repr=False)
    is_sketch: bool = False

    @cached_property
    def description(self) -> Description:
        """The model in Hugging Face's terms.

        Raises:
            UnsupportedError: a GGUF file that cannot be written back.
            CheckpointError, PlanError: see `describe`.
        """
        if self._family is None:
            return describe(self.checkpoint)
        names = tied_name(self._family, self.checkpoint.config, self.checkpoint.tensors)
        stored = tuple(
            TensorMap(names.get(i.name, i.name), i.shape, (Rows(i.name, 0, i.rows),))
            for i in self.checkpoint.tensors.values()
            if i.elements
        )
        return Description(
            self._family, dict(self.checkpoint.config), stored, self._checkpoint_notices
        )

    @cached_property
    def unknown(self) -> tuple[str, ...]:
        """Those of `left_out` that the family does not know, and that hold anything."""
        return unknown_to(self._family, self.settings, self._filled) if self._family else ()

    @cached_property
    def _filled(self) -> tuple[str, ...]:
        """Those of `left_out` that hold anything."""
        return tuple(name for name in self.left_out if self.checkpoint.tensors[name].elements)

    @property
    def _checkpoint_notices(self) -> tuple[str, ...]:
        empty = [info.name for info in self.checkpoint.tensors.values() if not info.elements]
        told = (f"empty tensors are left out: {shorten(empty)}",)
        return (*self.checkpoint.notices, *(told if empty else ()))

    @property
    def family(self) -> Family:
        return self._family or self.description.family

    @property
    def config(self) -> Mapping[str, Any]:
        """`config.json`, or what stands for it."""
        return self.description.config if self._family is None else dict(self.checkpoint.config)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Those of the language model in `config`, as transformers understands them."""
        return text_config(self.family, self.config)

    @cached_property
    def weights(self) -> tuple[Weight, ...]:
        """Under Hugging Face's names, in the order of the files."""
        if self._family is None:
            return weights_of_file(self.checkpoint, self.description)
        return weights_of_directory(self.checkpoint, self.description, self.tensors, self.tied)

    @cached_property
    def tied(self) -> bool:
        """Whether the output projection is the token embedding."""
        if self._family is None:
            return self.config.get("tie_word_embeddings") is True
        parts = {tensor.name: tensor.parts for tensor in self.tensors}
        output = parts.get(OUTPUT_WEIGHT)  # the embedding once more, where llama.cpp wants it
        is_shared = output is None or output == parts.get(EMBEDDING)
        return predicts(self.config) and is_shared

    @cached_property
    def output(self) -> str:
        """The GGUF name of the output projection's weight, the embedding's where they share it;
        empty for a model that predicts no tokens."""
        if not predicts(self.config):
            return ""
        return OUTPUT_WEIGHT if OUTPUT_WEIGHT in self.shapes else EMBEDDING

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of GGUF's tensors, by name, row-major."""
        return {tensor.name: tensor.shape for tensor in self.tensors}

    @cached_property
    def metadata(self) -> Metadata:
        """GGUF's keys that do not depend on the output's types, without nested arrays, for which
        there is no writer.

        Raises:
            UnsupportedError: an unknown tokenizer.
            CheckpointError: a small file cannot be read or trusted.
        """
        return {
            key: field
            for key, field in self._all_metadata().items()
            if not key.startswith(FILE_KEYS) and field.item is not GGUFValueType.ARRAY
        }

    def _all_metadata(self) -> Mapping[str, Field]:
        checkpoint = self.checkpoint
        if self._family is None:
            return checkpoint.metadata
        self._family.limits(self.settings)
        if self._family.output_is_embedding and OUTPUT_WEIGHT in self.shapes:
            raise UnsupportedError(
                f"{checkpoint.source} has an output projection of its own, and llama.cpp takes the "
                "embedding in its place for this family"
            )
        return {
            **general_metadata(checkpoint.path, checkpoint.source, self.architecture, self.tensors),
            **self._family.metadata(self.settings),
            **number_keys(self._family, self.settings, checkpoint.tensors),
            **pooling_metadata(checkpoint.path, self._family),
            **dense_keys(self._family, self.tensors),
            **self._tokenizer.metadata,
        }

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        """Of a directory."""
        path, config = self.checkpoint.path, self.checkpoint.config
        if not has_tokenizer(path):
            return Tokenizer({"tokenizer.ggml.model": text("no_vocab")}, (NO_TOKENIZER,))
        return read_tokenizer(path, config, self.architecture)

    @property
    def has_vocabulary(self) -> bool:
        """Whether a GGUF file of it has a tokenizer."""
        return "tokenizer.ggml.tokens" in self.metadata

    @cached_property
    def pairs_size(self) -> int:
        """Bytes of the metadata in a GGUF file."""
        return len(pairs_bytes(self.metadata))

    @cached_property
    def notices(self) -> tuple[str, ...]:
        """What is lost on the way to GGUF."""
        infos = self.checkpoint.tensors.values()
        if self._family is None:
            no_tokenizer = () if self.has_vocabulary else (NO_TOKENIZER,)
            plain = {"F32", "F16", "BF16", "F64"}
            return (*notice_quantized({info.dtype for info in infos} - plain), *no_tokenizer)
        return (
            *caveats(self._family, self.settings),
            *self._checkpoint_notices,
            *card_notices(self.checkpoint.path),
            *dense_notices(self.checkpoint.path, self._family, self.tensors),
            *_notice_left_out(self._filled, reads_images(self.checkpoint.config)),
            *notice_quantized({info.dtype for info in infos if info.codes}),
            *self._tokenizer.notices,
        )

    @cached_property
    def fingerprint(self) -> str:
        """What identifies the weights and the configuration; of a sketch something as long."""
        return UNREAD if self.is_sketch else fingerprint(self.checkpoint)

    @cached_property
    def parameters(self) -> int:
        """Weights that the checkpoint holds; computed tables are not counted."""
        return sum(tensor.elements for tensor in self.tensors if tensor.value is None)

    def source_type(self, tensor: TensorMap) -> str:
        """The dtype of the stored weights that a tensor is made of."""
        if not tensor.parts:
            return "F32"
        return self.checkpoint.tensors[tensor.parts[0].source].dtype


def open_model(checkpoint: Checkpoint, *, is_sketch: bool = False) -> Model:
    """What a checkpoint means.

    Args:
        is_sketch: read nothing but headers: samples of each tensor take longer than all the rest.

    Raises:
        UnsupportedError: an unknown family, or a GGUF file with tensors that hold nothing.
        PlanError: tensors are missing or do not fit the configuration.
        CheckpointError: the configuration cannot be read, or a GGUF file holds no model.
    """
    if checkpoint.container == "gguf":
        if empty := [info.name for info in checkpoint.tensors.values() if not info.elements]:
            raise UnsupportedError(
                f"{checkpoint.source} holds empty tensors: {shorten(empty)}",
                "convert the original model again",
            )
        tensors = tuple(
            TensorMap(info.name, info.shape or (1,), (Rows(info.name, 0, info.rows),))
            for info in checkpoint.tensors.values()
        )
        architecture = architecture_of_file(checkpoint)
        return Model(checkpoint, architecture, tensors, is_sketch=is_sketch)
    family = find_family(checkpoint.config)
    if is_reranker(family, checkpoint) and has_tokenizer(checkpoint.path):
        tokens = read_tokenizer(checkpoint.path, checkpoint.config, family.name).metadata
        family = as_reranker(family, tokens["tokenizer.ggml.tokens"].value)
    tensors, left_out = map_tensors(family, checkpoint.config, checkpoint.tensors)
    settings = text_config(family, checkpoint.config)
    tensors = (*tensors, *dense_tensors(checkpoint.path, family, settings))
    return Model(checkpoint, family.name, tensors, left_out, family, is_sketch)


def _notice_left_out(names: tuple[str, ...], sees: bool) -> tuple[str, ...]:
    """Args: sees: whether there is a file for those of them that read images."""
    if not names:
        return ()
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    other = "; `qconvert export --mmproj` makes the file that reads images" if sees else ""
    return (f"{len(names)} tensors have no place in GGUF and are left out: {shown}{other}",)


def notice_quantized(dtypes: Iterable[str]) -> tuple[str, ...]:
    """That a source was quantized before, to these; nothing where there are none."""
    names = ", ".join(sorted(dtypes))
    return (f"the source is quantized already ({names}): what it lost stays lost",) if names else ()
