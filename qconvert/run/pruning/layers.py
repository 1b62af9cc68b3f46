"""Which layers to leave out: one after the other, the one without which predictions diverge least
from the original's.

    round 1: every layer is left out by itself
    round n: the layers that cost least so far are left out once more, beside those that are gone,
             until the best of them costs less than all others did before

What a layer costs mostly grows as others go, so those that cost more already need not be asked
again. X. Men et al., "ShortGPT", arXiv 2403.03853, and A. Gromov et al., arXiv 2403.17887, score
layers by how little they turn the stream; what is measured here is what comes of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qconvert.run.pruning.desk import Desk
from qconvert.run.pruning.judge import Cost, Trial
from qconvert.run.pruning.kept import keep_costs

AT_ONCE = 4
"""Layers that are asked again together."""


@dataclass(frozen=True)
class Round:
    """A layer that goes.

    Attributes:
        gone: its number.
        cost: of all that are gone by then.
        costs: what layers would have cost in its place, of those that were asked in this round.
    """

    gone: int
    cost: Cost
    costs: Mapping[int, Cost]


def layer_rounds(desk: Desk, count: int, gone: Sequence[int] = ()) -> list[Round]:
    """The layers that go, in their order.

    Args:
        count: how many, with those that are gone already.
        gone: the latter, in the order in which they went.
    """
    found: list[Round] = []
    known: dict[int, Cost] = {}
    trial = Trial()
    if count > len(gone):
        desk.watcher.begin(count, 0)
    while len(found) < count:
        made = _round(desk, trial, known)
        known |= made.costs
        trial = trial.without(made.gone)
        found.append(made)
        where = f"without layer {made.gone}: KL divergence {made.cost.divergence:.4g}"
        desk.watcher.advance(1, where)
    return found[len(gone) :]


def _round(desk: Desk, base: Trial, known: Mapping[int, Cost]) -> Round:
    left = [number for number in range(desk.shape.layers) if number not in base.gone]
    pending = sorted(left, key=lambda n: known[n].divergence if known else 0.0)
    asked: dict[int, Cost] = {}
    while pending and not _is_decided(asked, pending, known):
        some = pending[:AT_ONCE] if known else pending
        pending = pending[len(some) :]
        asked |= dict(zip(some, _costs(desk, base, some), strict=True))
    gone = min(asked, key=lambda n: (asked[n].divergence, n))
    return Round(gone, asked[gone], asked)


def _costs(desk: Desk, base: Trial, some: Sequence[int]) -> list[Cost]:
    trials = [base.without(number) for number in some]
    name = f"layers {sorted(base.gone)} and one of {list(some)}"
    return keep_costs(desk.store, name, lambda: desk.judge.costs(trials, base))


def _is_decided(
    asked: Mapping[int, Cost], pending: Sequence[int], known: Mapping[int, Cost]
) -> bool:
    """Whether the best of those that were asked costs no more than the others did before."""
    if not asked or not known:
        return False
    best = min(cost.divergence for cost in asked.values())
    return best <= min(known[number].divergence for number in pending)
