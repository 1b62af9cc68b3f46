"""What is measured on the way, kept in a store, so that an interrupted run need not do it again."""

from collections.abc import Callable, Sequence

import numpy as np

from qconvert.containers.store import Store
from qconvert.run.pruning.judge import Cost


def keep_array(store: Store, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that the store has, or that is made now and put there."""
    if name not in store:
        store.put(name, {name: np.ascontiguousarray(make())})
    return np.array(store.get(name)[name])


def keep_costs(store: Store, name: str, make: Callable[[], Sequence[Cost]]) -> list[Cost]:
    """The same of costs."""
    rows = keep_array(store, name, lambda: np.array(make(), np.float64).reshape(-1, 2))
    return [Cost(float(divergence), float(perplexity)) for divergence, perplexity in rows]
