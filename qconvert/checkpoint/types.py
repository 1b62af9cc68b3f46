"""What a checkpoint is: names, shapes, dtypes and byte ranges, read from headers alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

from qconvert.checkpoint.metadata import Field
from qconvert.checkpoint.quantized.layouts import Layout
from qconvert.formats.safetensors.types import WeightFormat


@dataclass(frozen=True)
class Codes:
    """How the weight of a linear layer is stored as several tensors.

    Attributes:
        form: its layout, compressed-tensors' or another library's.
        parts: what it consists of, by suffix: "weight_packed", "weight_scale".
        turned: the weight is [in, out] (GPT-2), and its codes are of [out, in].
    """

    form: WeightFormat | Layout
    parts: "Mapping[str, TensorInfo]"
    turned: bool = False


@dataclass(frozen=True)
class Delta:
    """What an adapter adds to a weight [out, in]: scale * up @ down.

    Attributes:
        down: [rank, in] (LoRA's A).
        up: [out, rank] (LoRA's B).
        turned: the weight is stored [in, out].
        magnitude: [out], what the rows' norms become (DoRA); None leaves them.
    """

    down: "TensorInfo"
    up: "TensorInfo"
    scale: float
    turned: bool = False
    magnitude: "TensorInfo | None" = None

    @property
    def parts(self) -> "tuple[TensorInfo, ...]":
        return (self.down, self.up, *((self.magnitude,) if self.magnitude else ()))


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor, as its file's header describes it. Its bytes are not read.

    Attributes:
        name: the name in the checkpoint.
        shape: row-major, outermost dimension first (GGUF's order is turned round on reading).
        dtype: safetensors' name for plain dtypes ("F32", "BF16", "F8_E4M3", "I64"), ggml's name
            for blocks ("Q4_K"), the layout of codes ("pack-quantized").
        path: the file that holds the bytes.
        offset: where they begin, in bytes from the start of the file.
        nbytes: how many there are.
        scale: the block scales of an fp8 weight (`weight_scale_inv`): dequantized weight =
            value * scale[i // block[0], j // block[1]], the outer dimensions of both alike.
        block: the rows and columns that share one of `scale`'s values.
        strides: in elements, of a tensor that a pickle stores transposed or as a view; None for
            the usual: row after row, without gaps.
        codes: of a weight that is stored as several tensors, all of them; `path`, `offset` and
            `nbytes` are then the first one's.
        delta: what an adapter adds to the numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    path: Path
    offset: int
    nbytes: int
    scale: "TensorInfo | None" = None
    block: tuple[int, int] = (1, 1)
    strides: tuple[int, ...] | None = None
    codes: Codes | None = None
    delta: Delta | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the numbers are those of its bytes alone, as their dtype has them."""
        return self.scale is None and self.delta is None

    @property
    def columns(self) -> int:
        """Elements of one row: the innermost dimension."""
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        """The product of the outer dimensions."""
        return prod(self.shape[:-1])

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        """With its scales and whatever else its codes need."""
        if self.codes is not None:
            return sum(part.nbytes for part in self.codes.parts.values())
        return self.nbytes + (self.scale.nbytes if self.scale else 0)


@dataclass(frozen=True)
class Checkpoint:
    """An opened source: everything about it but the weights.

    Attributes:
        container: which reader opened it.
        source: how the user would name it again: a hub id with its revision, or the name of the
            directory or file.
        path: the directory, or the (first) GGUF file.
        config: `config.json`; empty for a GGUF file.
        metadata: the key-value pairs of a GGUF file; empty for a directory.
        tensors: by name, in the order of the files.
        notices: how its names were read, where they are unusual.
        states: of the files that hold weights, bytes and time of the last change (in ns), as they
            were when they were opened.
    """

    container: Literal["huggingface", "gguf"]
    source: str
    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Field] = field(default_factory=dict)
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    states: Mapping[Path, tuple[int, int]] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold weights, each once."""
        paths = (
            part.path
            for tensor in self.tensors.values()
            for part in (
                tensor,
                *(tensor.codes.parts.values() if tensor.codes else ()),
                *((tensor.scale,) if tensor.scale else ()),
                *(tensor.delta.parts if tensor.delta else ()),
            )
        )
        return tuple(dict.fromkeys(paths))

    @property
    def parameters(self) -> int:
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def nbytes(self) -> int:
        return sum(tensor.stored_bytes for tensor in self.tensors.values())
