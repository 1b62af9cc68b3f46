"""An adapter as llama.cpp takes it beside a model's file (`--lora`).

    general.type = adapter, adapter.type = lora, adapter.lora.alpha
    NAME.lora_a     [rank, in]          of each weight that is adapted, by its name in the model's
    NAME.lora_b     [out, rank]         file, with rows in the order that they have there

llama.cpp adds alpha / rank * lora_b lora_a. Where an adapter scales in another way, the rows of
lora_b are multiplied with the rest. Of the token embedding lora_a is [vocabulary, rank].
Source: llama.cpp, convert_lora_to_gguf.py and llama-adapter.cpp.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from qconvert.checkpoint import read_rows
from qconvert.checkpoint.adapter import Adapter, Pair
from qconvert.containers.place import make_place
from qconvert.containers.room import ELSEWHERE
from qconvert.containers.whole import replacing
from qconvert.errors import UnsupportedError, shorten
from qconvert.model.assemble import assemble
from qconvert.model.mapping import EMBEDDING
from qconvert.model.names import bare_name
from qconvert.model.open import Model
from qconvert.model.types import TensorMap

MERGE = "merge it in place of that: qconvert export MODEL --adapter DIR"


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        weights: how many are adapted.
        rank: the largest.
        alpha: of the file.
    """

    path: Path
    nbytes: int
    weights: int
    rank: int
    alpha: float


def write_adapter(model: Model, adapter: Adapter, path: Path) -> Written:
    """Write the file; it appears when it is complete.

    Args:
        model: the base, of which headers are read.

    Raises:
        UnsupportedError: the adapter is more than additions to matrices, or adapts what a GGUF
            file of the model has not as such.
        OutputError: it cannot be written.
    """
    check_can_be_written(adapter)
    alpha = next(pair.scale * pair.rank for pair in adapter.pairs if pair.scale)
    made = dict(_tensors(model, adapter, alpha))
    writer = GGUFWriter(None, model.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    writer.add_name(adapter.path.resolve().name)
    for name, values in made.items():
        writer.add_tensor(name, values)
    make_place(path)
    with replacing(path, ELSEWHERE) as temporary:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    rank = max(pair.rank for pair in adapter.pairs)
    return Written(path, path.stat().st_size, len(made) // 2, rank, alpha)


def check_can_be_written(adapter: Adapter) -> None:
    """Refuse what llama.cpp's adapters cannot say.

    Raises:
        UnsupportedError: naming it.
    """
    if any(pair.magnitude is not None for pair in adapter.pairs):
        raise UnsupportedError(f"{adapter.path} is DoRA, which llama.cpp does not take", MERGE)
    if adapter.whole:
        raise UnsupportedError(
            f"{adapter.path} has tensors of its own, which llama.cpp does not take: "
            f"{shorten(list(adapter.whole))}",
            MERGE,
        )
    if not any(pair.scale for pair in adapter.pairs):
        raise UnsupportedError(f"{adapter.path} adds nothing: its lora_alpha is 0")


def _tensors(model: Model, adapter: Adapter, alpha: float) -> Iterator[tuple[str, np.ndarray]]:
    made: dict[str, list[TensorMap]] = {}
    for tensor in model.tensors:
        for source in {part.source for part in tensor.parts}:
            made.setdefault(bare_name(source), []).append(tensor)
    for pair in adapter.pairs:
        targets = made.get(bare_name(f"{pair.module}.weight"), [])
        if not targets or not all(_is_simple(one) for one in targets):
            raise UnsupportedError(
                f"{adapter.path} adapts {pair.module}, which a GGUF file of this model has not as "
                "such",
                MERGE,
            )
        for tensor in targets:
            yield from _pair(tensor, pair, pair.scale * pair.rank / alpha)


def _is_simple(tensor: TensorMap) -> bool:
    """Whether its rows are those of one stored matrix, whatever their order."""
    one_source = len({part.source for part in tensor.parts}) == 1
    return one_source and len(tensor.shape) == 2 and not (tensor.add or tensor.reshaped)


def _pair(tensor: TensorMap, pair: Pair, factor: float) -> Iterator[tuple[str, np.ndarray]]:
    down = read_rows(pair.down, 0, pair.down.rows)
    if tensor.name == EMBEDDING:
        yield f"{tensor.name}.lora_a", np.ascontiguousarray(down.T)
        up = read_rows(pair.up, 0, pair.up.rows)
    else:
        yield f"{tensor.name}.lora_a", down
        up = _ordered(tensor, pair)
    yield f"{tensor.name}.lora_b", up * np.float32(factor)


def _ordered(tensor: TensorMap, pair: Pair) -> np.ndarray:
    """The rows of B that belong to a tensor, in its order."""
    if tensor.transpose:  # stored [in, out]: its rows are not those of the output
        return read_rows(pair.up, 0, pair.up.rows)
    own = replace(tensor, shape=(tensor.rows, pair.rank))
    return assemble(own, {tensor.parts[0].source: pair.up}, 0, tensor.rows)
