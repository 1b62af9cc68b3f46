"""Bits where they count, held against every choice that there is."""

from itertools import product

import numpy as np
import pytest

from qconvert.algorithms.allocate import Option, allocate, largest, smallest


def random_options(seed: int) -> dict[str, list[Option]]:
    """A few tensors; some options are larger and worse than others."""
    rng = np.random.default_rng(seed)
    found = {}
    for number in range(5):
        sizes = rng.integers(10, 400, rng.integers(1, 5))
        losses = rng.lognormal(0, 2, len(sizes)) / sizes
        found[f"blk.{number}"] = [
            Option(f"q{k}", int(size), float(loss))
            for k, (size, loss) in enumerate(zip(sizes, losses, strict=True))
        ]
    return found


def best_within(options: dict[str, list[Option]], budget: int) -> float:
    """The least loss of all choices."""
    return min(
        (
            sum(one.loss for one in choice)
            for choice in product(*options.values())
            if sum(one.nbytes for one in choice) <= budget
        ),
        default=float("inf"),
    )


@pytest.mark.parametrize("seed", range(40))
def test_never_over_the_budget_and_near_the_best_of_all_choices(seed: int):
    options = random_options(seed)
    low, high = smallest(options), largest(options)
    widest = max(one.nbytes for each in options.values() for one in each)
    for budget in np.linspace(low, high + 50, 9).astype(int):
        chosen = allocate(options, int(budget))
        assert {*chosen} == {*options}
        assert all(one in options[name] for name, one in chosen.items())
        spent = sum(one.nbytes for one in chosen.values())
        assert spent <= budget
        # What the hull's steps cannot fill is less than one step.
        loss = sum(one.loss for one in chosen.values())
        assert loss <= best_within(options, int(budget) - widest) + 1e-12
        room = int(budget) - spent
        for name, one in chosen.items():
            better = [o for o in options[name] if o.loss < one.loss]
            assert all(other.nbytes - one.nbytes > room for other in better)


def test_all_that_there_is_room_for():
    options = random_options(3)
    chosen = allocate(options, largest(options))
    assert all(one.loss == min(o.loss for o in options[name]) for name, one in chosen.items())


def test_a_budget_below_the_smallest():
    options = random_options(4)
    allocate(options, smallest(options))
    with pytest.raises(ValueError, match="no choice"):
        allocate(options, smallest(options) - 1)
