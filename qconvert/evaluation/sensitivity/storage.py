"""What each GGUF tensor of a file is stored as, and how many bytes it takes, whatever the file's
container. Told from headers alone."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qconvert.checkpoint import TensorInfo
from qconvert.formats.safetensors.types import WeightFormat
from qconvert.model.open import Model


@dataclass(frozen=True)
class Stored:
    """One tensor, or several together.

    Attributes:
        type: as in the header, "Q4_K", "BF16"; of codes with scales "int4 g128", "float8"; of
            several tensors, all of them, the most bytes first.
        nbytes: what they take.
    """

    type: str
    nbytes: int


def stored_tensors(model: Model) -> dict[str, Stored]:
    """By GGUF name. What is computed and not stored is left out."""
    tensors = model.checkpoint.tensors
    if model.checkpoint.container == "gguf":
        return {name: Stored(info.dtype, info.nbytes) for name, info in tensors.items()}
    found = {}
    for tensor in model.tensors:
        pieces = []
        for part in tensor.parts:
            whole = _stored(tensors[part.source])
            share = len(part) / tensors[part.source].rows
            pieces.append(Stored(whole.type, round(whole.nbytes * share)))
        if pieces:
            found[tensor.name] = together(pieces)
    return found


def _stored(info: TensorInfo) -> Stored:
    """A tensor of a directory, with its scales."""
    if info.codes is not None:
        form = info.codes.form
        if not isinstance(form, WeightFormat):
            return Stored(form.label, info.stored_bytes)
        group = f" g{form.group_size}" if form.strategy == "group" and form.type == "int" else ""
        return Stored(f"{form.type}{form.bits}{group}", info.stored_bytes)
    return Stored(info.dtype, info.stored_bytes)


def together(pieces: Iterable[Stored]) -> Stored:
    """Several as one."""
    sizes: Counter[str] = Counter()
    for piece in pieces:
        sizes[piece.type] += piece.nbytes
    return Stored(", ".join(name for name, _ in sizes.most_common()), sizes.total())


def of_block(stored: Mapping[str, Stored], block: int) -> Stored:
    """All of a block. Its norms' and biases' types are not named, their bytes count."""
    pattern = re.compile(rf"blk\.{block}\.")
    own = {name: piece for name, piece in stored.items() if pattern.match(name)}
    plain = ("norm", ".bias")
    named = together(p for name, p in own.items() if not any(mark in name for mark in plain))
    return Stored(named.type, sum(piece.nbytes for piece in own.values()))
