"""What each GGUF tensor of a file is stored as, and how many bytes it takes, whatever the file's
container. Told from headers alone."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qconvert.architectures.mapping import map_tensors
from qconvert.forward.weights import Source


@dataclass(frozen=True)
class Stored:
    """One tensor, or several together.

    Attributes:
        type: as in the header, "Q4_K"; of several, all of them, the most bytes first.
        nbytes: what they take.
    """

    type: str
    nbytes: int


def stored_tensors(source: Source) -> dict[str, Stored]:
    """By GGUF name. What is computed and not stored is left out."""
    tensors = source.checkpoint.tensors
    if source.checkpoint.container == "gguf":
        return {name: Stored(info.dtype, info.nbytes) for name, info in tensors.items()}
    mapped, _ = map_tensors(source.architecture, source.config, tensors)
    found = {}
    for tensor in mapped:
        pieces = []
        for part in tensor.parts:
            info = tensors[part.source]
            share = (part.stop - part.start) / info.rows
            pieces.append(Stored(info.dtype, round(info.nbytes * share)))
        if pieces:
            found[tensor.name] = together(pieces)
    return found


def together(pieces: Iterable[Stored]) -> Stored:
    """Several as one."""
    sizes: Counter[str] = Counter()
    for piece in pieces:
        sizes[piece.type] += piece.nbytes
    return Stored(", ".join(name for name, _ in sizes.most_common()), sizes.total())


def of_block(stored: Mapping[str, Stored], block: int) -> Stored:
    """All weights of a block that are matrices or larger types than its norms: the types of
    vectors (norms, biases) are not named, their bytes count."""
    pattern = re.compile(rf"blk\.{block}\.")
    own = {name: piece for name, piece in stored.items() if pattern.match(name)}
    plain = ("norm", ".bias")
    named = together(p for name, p in own.items() if not any(mark in name for mark in plain))
    return Stored(named.type, sum(piece.nbytes for piece in own.values()))
