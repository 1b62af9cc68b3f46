"""Which neurons, heads and channels matter least.

A column of a weight matters by what it gives to the output: the mean square of its input times the
square of its own norm, which is what leaving it out costs where inputs are independent.

    neuron of the feed-forward     its column of "down"
    group of heads                 its columns of the attention's output, summed
    channel of the stream          its mean square behind each norm, relative to all channels'

Sources: M. Sun et al., "Wanda", arXiv 2306.11695 (of single weights); S. Muralidharan et al.,
"Minitron", arXiv 2407.14679 (of channels, by activation).
"""

from collections.abc import Sequence

import numpy as np

TINY = 1e-30


def by_column(square: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Scores of columns, float64 [columns].

    Args:
        square: the mean square of each column's input.
        norms: the sum of squares of each column's weights.
    """
    found: np.ndarray = square.astype(np.float64) * norms
    return found


def by_channel(squares: Sequence[np.ndarray]) -> np.ndarray:
    """Scores of channels, float64 [channels]; every input that they go into counts as much.

    Args:
        squares: of each input, the mean square of its channels.
    """
    relative = [one.astype(np.float64) / max(float(one.mean()), TINY) for one in squares]
    found: np.ndarray = np.mean(relative, axis=0)
    return found


def grouped(scores: np.ndarray, groups: int) -> np.ndarray:
    """Scores of so many groups of neighbours."""
    found: np.ndarray = scores.reshape(groups, -1).sum(axis=1)
    return found


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest, bool; of equal ones the first."""
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


def rescaling(square: np.ndarray, weight: np.ndarray, kept: np.ndarray) -> float:
    """What an RMS norm over some of its channels has to be multiplied with, so that it gives on
    the mean what it gave over all.

    The norm divides by the root of the mean square of its channels. Of those that stay that is
    larger, since the largest stay: by the mean of (x / weight)^2 over them, which over all is 1.

    Args:
        square: the mean square of what the norm gives, by channel.
        weight: of the norm.
        kept: bool, the channels that stay.
    """
    alive = kept & (np.abs(weight) > TINY)
    if not alive.any():
        return 1.0
    before = square[alive].astype(np.float64) / np.square(weight[alive].astype(np.float64))
    return float(np.sqrt(max(before.mean(), TINY)))


def fitting(wanted: int, whole: int, unit: int, multiple: int) -> int:
    """A size not below the one that is wanted, of which rows divide into blocks as the whole's do.

    Args:
        unit: weights of a row for one of these.
        multiple: of weights in a block.
    """
    if whole * unit % multiple:
        return wanted
    return next(size for size in range(wanted, whole + 1) if size * unit % multiple == 0)
