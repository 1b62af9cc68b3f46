"""Weights with zeros, made while the model walks over the sample, one block in memory.

    for each block: see the inputs of its weights, as earlier zeros have made them
                    set zeros, and move the other weights where that helps on unseen windows
                    run the block with what they have become

Linear layers in blocks are made sparse; routers, embeddings and the output projection stay.
"""

from typing import Any

import numpy as np

from qconvert.algorithms.damping import factored
from qconvert.algorithms.guard import helps
from qconvert.algorithms.pruning.zeros import Pattern, made_up_for, without_smallest
from qconvert.calibration.moments import Moments
from qconvert.containers.store import Store
from qconvert.formats.types import Seen
from qconvert.forward.block import Block
from qconvert.forward.linears import Linear, rows_of
from qconvert.forward.skeleton import set_parameter
from qconvert.forward.walk import Walk
from qconvert.forward.weights import pieces_of, read_parameter
from qconvert.machine.watcher import Watcher
from qconvert.model.roles import can_be_quantized
from qconvert.run.pruning.types import Sparse

COUNTS = "counts"


def make_sparse(walk: Walk, shown: int, pattern: Pattern, store: Store, watcher: Watcher) -> Sparse:
    """Put every parameter of a block that changes into the store, under its stored names.

    Args:
        walk: whose first `shown` windows are seen, the others are for the guard.
        store: what an earlier run has made is taken up.
    """
    counts = np.zeros(4, np.int64)
    watcher.begin(len(walk), 0)
    for block in walk:
        about = f"block {block.index}"
        if about not in store:
            own = _make(walk, block, shown, pattern, store)
            store.put(about, {f"{about} {COUNTS}": own})
        else:
            _install(walk, block, store)
        counts += store.get(about)[f"{about} {COUNTS}"]
        block.run()
        watcher.advance(1, f"block {block.index + 1} of {len(walk)}")
    zeros, weights, moved, matrices = map(int, counts)
    return Sparse(zeros / max(weights, 1), weights, moved, matrices)


def _make(walk: Walk, block: Block, shown: int, pattern: Pattern, store: Store) -> np.ndarray:
    """int64: zeros, weights, matrices that were moved, matrices."""
    both = Moments(), Moments()
    for start, hidden in block.batches():
        block.forward(hidden, both[start >= shown].observe)
    counts = np.zeros(4, np.int64)
    for name, parameter, lines in _parameters(walk, block):
        own = read_parameter(walk.source, name, tuple(parameter.shape), "float32").to(walk.device)
        for weight, line in lines.items():
            rows = rows_of(line, own)
            matrices = rows if rows.dim() == 3 else rows[None]
            for number, w in enumerate(matrices):
                made, helped = _matrix(w, weight, number, both, pattern)
                w.copy_(made)
                counts += int((made == 0).sum()), made.numel(), helped, 1
        _keep(walk, store, name, own.cpu().numpy())
        _put(block, name, own.to(parameter))
    return counts


def _matrix(
    w: Any, weight: str, number: int, both: tuple[Moments, Moments], pattern: Pattern
) -> tuple[Any, bool]:
    """A matrix with zeros, and whether the others were moved."""
    shown, unseen = (moments.of(weight, number) for moments in both)
    if shown is None:
        shown = Seen(np.ones(w.shape[1], np.float32))
    plain = without_smallest(w, shown, pattern)
    if shown.hessian is None or unseen is None:
        return plain, False
    with_factor = factored(shown._replace(hessian=shown.hessian.clone()))
    if with_factor.factor is None:
        return plain, False
    moved = made_up_for(w, with_factor, pattern)
    offs = [(one - w).cpu().numpy() for one in (moved, plain)]
    helped = helps(offs[0], offs[1], unseen)
    return (moved, True) if helped else (plain, False)


def _parameters(walk: Walk, block: Block) -> list[tuple[str, Any, dict[str, Linear]]]:
    """The parameters of a block that hold weights to be made sparse, by their names in the model,
    each with these."""
    prefix = f"{walk.skeleton.blocks_name}.{block.index}."
    found = []
    for name, parameter in block.module.named_parameters():
        names = [target for target, _ in walk.source.targets_of(prefix + name)]
        lines = {one: block.linears[one] for one in names if _is_linear(walk, block, one)}
        if lines:
            found.append((prefix + name, parameter, lines))
    return found


def _is_linear(walk: Walk, block: Block, name: str) -> bool:
    shape = walk.model.shapes.get(name, ())
    return name in block.linears and can_be_quantized(name, shape, walk.model.architecture)


def _keep(walk: Walk, store: Store, name: str, values: np.ndarray) -> None:
    """Put a parameter into the store, in the pieces that the checkpoint has it in."""
    flat, arrays, done = values.reshape(-1, values.shape[-1]), {}, 0
    for piece in pieces_of(walk.source, name, values.shape):
        source = walk.source.checkpoint.tensors[piece.parts[0].source]
        rows = flat[done : done + piece.rows]
        arrays[source.name] = np.ascontiguousarray(rows).reshape(source.shape)
        done += piece.rows
    store.put(name, arrays)


def _install(walk: Walk, block: Block, store: Store) -> None:
    """Have a block compute with what an earlier run has made."""
    import torch

    for name, parameter, _ in _parameters(walk, block):
        pieces = pieces_of(walk.source, name, tuple(parameter.shape))
        made = store.get(name)
        rows = [
            torch.from_numpy(np.array(made[piece.parts[0].source])).reshape(-1, piece.columns)
            for piece in pieces
        ]
        whole = torch.cat(rows).reshape(parameter.shape)
        _put(block, name, whole.to(parameter))


def _put(block: Block, name: str, values: Any) -> None:
    prefix = f"{block.index}."
    own = name.partition(prefix)[2]
    set_parameter(block.module, own, values)
