"""Which layers to leave out: one after the other, the one without which predictions diverge least
from the original's.

    round 1: every layer is left out by itself
    round n: the layers that cost least so far are left out once more, beside those that are gone,
             until the best of them adds less than all others did before

What a layer adds to what those cost that are gone mostly grows as others go, so those that added
more already need not be asked again; a few are always. X. Men et al., "ShortGPT", arXiv 2403.03853,
and A. Gromov et al., arXiv 2403.17887, score layers by how little they turn the stream; what is
measured here is what comes of it. Asking the likeliest first is M. Minoux, "Accelerated greedy
algorithms for maximizing submodular set functions" (1978).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qconvert.run.pruning.desk import Desk
from qconvert.run.pruning.judge import Cost, Trial
from qconvert.run.pruning.kept import keep_costs

AT_ONCE = 4
"""Layers that are asked again together."""

ASKED = 8
"""So many are asked again in each round at least: what a layer adds can fall too."""


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
    known: dict[int, float] = {}
    trial, paid = Trial(), 0.0
    if count > len(gone):
        desk.watcher.begin(count, 0)
    while len(found) < count:
        made = _round(desk, trial, known, paid)
        known |= {number: cost.divergence - paid for number, cost in made.costs.items()}
        trial, paid = trial.without(made.gone), made.cost.divergence
        found.append(made)
        where = f"without layer {made.gone}: KL divergence {made.cost.divergence:.4g}"
        desk.watcher.advance(1, where)
    return found[len(gone) :]


def _round(desk: Desk, base: Trial, known: Mapping[int, float], paid: float) -> Round:
    """The layer that goes next.

    Args:
        known: what layers added to the divergence when they were last asked; empty at first.
        paid: the divergence of the base.
    """
    left = [number for number in range(desk.shape.layers) if number not in base.gone]
    pending = sorted(left, key=lambda n: known[n] if known else 0.0)
    asked: dict[int, Cost] = {}
    while pending and not _is_decided(asked, pending, known, paid):
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
    asked: Mapping[int, Cost], pending: Sequence[int], known: Mapping[int, float], paid: float
) -> bool:
    """Whether the best of those that were asked adds no more than the others did before."""
    if len(asked) < ASKED or not known:
        return False
    best = min(cost.divergence for cost in asked.values()) - paid
    return best <= min(known[number] for number in pending)
