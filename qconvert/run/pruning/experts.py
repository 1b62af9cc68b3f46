"""Which experts to leave out: those whose outputs, as the router weighs them, are smallest.

    score of an expert = mean over the tokens that the router sends to it of weight * |output|

One that no token reached has 0. Source: M. Lasby et al., "REAP the Experts", arXiv 2510.13999.
"""

from typing import Any

import numpy as np

from qconvert.forward.experts import are_experts
from qconvert.forward.walk import Block
from qconvert.run.pruning.desk import Desk
from qconvert.run.pruning.kept import keep_array


def expert_scores(desk: Desk) -> dict[int, np.ndarray]:
    """float64 [experts], by block."""

    def measure() -> np.ndarray:
        walk = desk.walk()
        desk.watcher.begin(len(walk), 0)
        found = []
        for block in walk:
            found.append(_of_block(block, desk.shape.experts))
            desk.watcher.advance(1, f"block {block.index + 1} of {len(walk)}")
        return np.stack(found)

    return dict(enumerate(keep_array(desk.store, "experts", measure)))


def _of_block(block: Block, experts: int) -> np.ndarray:
    sums, counts = np.zeros(experts), np.zeros(experts)
    routed: list[tuple[Any, Any]] = []
    module = next(one for one in block.module.modules() if are_experts(one))

    def routing(module: Any, args: tuple[Any, ...]) -> None:
        routed[:] = [(args[1].reshape(-1), args[2].reshape(-1))]

    def give(names: tuple[str, ...], out: Any, expert: int) -> None:
        if "ffn_down" not in names[0] or not routed:
            return
        chosen, weights = routed[0]
        own = weights[chosen == expert].float()
        sums[expert] += float((own * out.float().norm(dim=-1)).double().sum())
        counts[expert] += len(own)

    hook = module.register_forward_pre_hook(routing)
    try:
        for start, hidden in block.batches():
            out = block.forward(hidden, give=give)
            block.walk.states.write(block.index + 1, start, out)
    finally:
        hook.remove()
    block.is_done = True
    return sums / np.maximum(counts, 1)
