"""Weights to try formats on: hypothesis strategies, and arrays with a known difficulty."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

SPECIAL = np.array(
    [
        *(0.0, -0.0, 1e-45, -1e-45, 1e-40, 2.9e-39, 1.2e-38, 5.9e-8, 6e-5, 0.5, 1.0, -1.0),
        *(127.0, 65504.0, 65520.0, 1e30, 3e38, -3e38),
    ],
    np.float32,
)


def finite_weights(columns: int, limit: float = 3.0e38) -> st.SearchStrategy[np.ndarray]:
    """float32 [1 to 3, columns], of any finite value up to `limit`, subnormals among them."""
    bound = float(np.float32(limit))
    elements = st.floats(-bound, bound, width=32, allow_subnormal=True)
    free = arrays(np.float32, st.tuples(st.integers(1, 3), st.just(columns)), elements=elements)
    return st.one_of(free, ordinary_weights(columns), special_weights(columns))


@st.composite
def ordinary_weights(draw: st.DrawFn, columns: int) -> np.ndarray:
    """Normally distributed rows of any size, with outliers, on a coarse grid or not."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((draw(st.integers(1, 3)), columns))
    x *= 2.0 ** draw(st.integers(-20, 12))
    if draw(st.booleans()):
        x[0, rng.integers(columns)] *= 1000
    x = x.astype(np.float32)
    if draw(st.booleans()):
        x = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return x


@st.composite
def special_weights(draw: st.DrawFn, columns: int) -> np.ndarray:
    """Rows of a few special values."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    few = rng.choice(SPECIAL, size=draw(st.integers(1, 3)))
    return rng.choice(few, size=(draw(st.integers(1, 2)), columns))


def extremes(columns: int) -> dict[str, np.ndarray]:
    """float32 [1, columns] each, by what is extreme about it."""
    outlier = np.full(columns, 1e-3, np.float32)
    outlier[columns // 3] = -50
    mixed_zeros = np.zeros(columns, np.float32)
    mixed_zeros[::2] = -0.0
    rows = {
        "zeros": np.zeros(columns),
        "negative zeros": np.full(columns, -0.0),
        "mixed zeros": mixed_zeros,
        "constant": np.full(columns, 0.37),
        "negative constant": np.full(columns, -0.37),
        "huge": np.linspace(-3e38, 3e38, columns),
        "subnormal": np.linspace(-1e-40, 1e-40, columns),
        "smallest": np.full(columns, 1e-45),
        "outlier": outlier,
        "ties": np.tile([1.0, -1.0], columns // 2),
    }
    return {name: row.astype(np.float32).reshape(1, -1) for name, row in rows.items()}
