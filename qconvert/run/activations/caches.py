"""The largest keys and values of each block, for the stored scales of a quantized cache.

The model walks over some windows of the calibration's sample, spread over it. What was seen is kept
until the output is written, for a run that goes on:

    lock, identity    see `containers.folder`
    caches.json       [[block, keys, values], ...]
"""

import json
from collections.abc import Sequence
from dataclasses import astuple, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.containers.folder import begin_anew, is_of, open_folder
from qconvert.containers.whole import write_whole
from qconvert.errors import PlanError
from qconvert.forward.caches import shown
from qconvert.forward.walk import Block, Place, Walk
from qconvert.machine.watcher import Watcher
from qconvert.model.open import Model
from qconvert.plan.statistics import Cache
from qconvert.run.fitting import spread

TOKENS = 16384
"""On which keys and values are looked at; at least one window."""

FOUND = "caches.json"


def see_caches(
    model: Model,
    tokens: np.ndarray,
    blocks: Sequence[int],
    place: Place,
    work: Path,
    watcher: Watcher,
) -> dict[int, Cache]:
    """By block, the largest keys and values.

    Args:
        tokens: int [windows, window].
        blocks: those that have a cache.
        place: how the model works.
        work: what it finds is kept in the folder of this path (`containers.folder.work_folder`).

    Raises:
        PlanError: a block shows none.
        OutputError: no room, or another run works on the same output.
        Also what `Walk` raises.
    """
    count = min(max(TOKENS // tokens.shape[1], 1), len(tokens))
    some = np.ascontiguousarray(tokens[spread(len(tokens), count)])
    with open_folder(work) as folder:
        walk = Walk(model, some, replace(place, folder=folder))
        identity = sha256(repr((walk.identity, list(blocks))).encode()).hexdigest()
        if is_of(folder, identity) and (folder / FOUND).exists():
            known = json.loads((folder / FOUND).read_bytes())
            return {block: Cache(keys, values) for block, keys, values in known}
        begin_anew(folder, identity)
        found = _seen(walk, watcher)
        missing = [block for block in blocks if not found[block].keys]
        if missing:
            raise PlanError(
                f"the attention of block {missing[0]} shows no keys and values", "leave out --kv"
            )
        seen = {block: found[block] for block in blocks}
        kept = [[block, *astuple(cache)] for block, cache in seen.items()]
        write_whole(folder / FOUND, json.dumps(kept).encode())
        return seen


def _seen(walk: Walk, watcher: Watcher) -> dict[int, Cache]:
    """What all blocks show as they run."""
    found: dict[int, Cache] = {}
    size, blocks = walk.tokens.size, len(walk)
    watcher.begin(blocks * size, 0)
    try:
        for block in walk:
            found[block.index] = _largest(block)
            watcher.advance(size, f"keys and values of block {block.index + 1} of {blocks}")
    finally:
        walk.states.remove()
    return found


def _largest(block: Block) -> Cache:
    """Of one block, which runs."""
    largest = [0.0, 0.0]

    def see(*both: Any) -> None:
        for number, one in enumerate(both):
            largest[number] = max(largest[number], float(one.abs().amax()))

    with shown(block.module, see):
        block.run()
    return Cache(*largest)
