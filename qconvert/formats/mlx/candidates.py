"""What the search for affine scales tries (`qconvert.kernels.affine_groups`).

Found by trial on random weights: few enough to be fast; ten times as many gain a hundredth at 2 to
4 bits, and two to four at 5 and 6, where errors are small.
"""

from functools import cache

import numpy as np

_SHARES = {
    2: (1.0, 0.92, 0.84, 0.77, 0.7, 0.64, 0.58, 0.52, 0.46),
    3: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.64, 0.57),
    4: (1.0, 0.97, 0.93, 0.9, 0.86, 0.82, 0.77, 0.72, 0.65),
    5: (1.0, 0.98, 0.96, 0.93, 0.9, 0.87, 0.83, 0.78, 0.72),
    6: (1.0, 0.99, 0.98, 0.96, 0.94, 0.92, 0.89, 0.85, 0.8),
    8: (1.0, 0.998, 0.995, 0.99, 0.985, 0.98, 0.97, 0.95, 0.92),
}
"""Of the range of weights, that the codes span."""

_PLACES = (0.5, 0.0, 1.0, 0.25, 0.75)
"""Where the rest is: above, as a share of it below."""

_WIDER = ((1.03, 0.5), (1.06, 0.5), (1.1, 0.5))


@cache
def trials(bits: int) -> np.ndarray:
    """float32 [96]: for each sixteen windows, into how many steps the range of weights is divided,
    and the code of the least weight."""
    top = (1 << bits) - 1
    windows = [(share, place) for share in _SHARES[bits] for place in _PLACES]
    windows = [*windows[:1], *windows[5:], *_WIDER]  # the whole range has but one place
    assert len(windows) <= 48
    windows += [(1.0, 0.5)] * (48 - len(windows))
    share, place = np.array(windows).T
    pairs = np.stack([top / share, -place * (1 / share - 1) * top])
    rows: np.ndarray = pairs.reshape(2, 3, 16).swapaxes(0, 1)
    return np.ascontiguousarray(rows.reshape(-1), np.float32)


_NEAR = np.arange(-8, 8)

MOVES = np.concatenate([1 + 2.0**-7 * _NEAR, 1 + 2.0**-8 * _NEAR, 1 + 2.0**-10 * _NEAR]).astype(
    np.float32
)
NUDGES = (_NEAR / 16).astype(np.float32)
