"""A reference's distributions in a few kilobytes for each token.

Of each distribution p, all tokens with p >= share are kept with their log probabilities. The rest,
of mass m < 1, is represented by tokens drawn from it with probabilities proportional to p: two
independent systematic draws (a random start and equal steps through the cumulated probabilities,
Madow 1949) of n = ceil(m / (2 share)) tokens each, so that a token takes at most 1 / share entries
and a few. A divergence is then

    KL(p || q) ~ sum over kept p ln(p / q) + m * mean over drawn ln(p / q)

without bias, whatever q is. What the file's own q says of its mass Q in the rest can be used, for
the mean over drawn of q / p times m estimates it: adding the difference to Q turns each drawn term
into ln(p / q) - 1 + q / p >= 0, which varies far less where q is close to p. This is done for a
file where the draws show that it helps.

How far is the mean off? The two draws of each token are independent, so half their difference,
squared, estimates the variance, without bias and whatever the model. The bound that is stated is
three standard errors of the mean over all tokens: chance is in the draws alone, and 997 of 1000
stay within it. It is no hard guarantee. `choose_share` takes the share so small that the bound is
below 1e-4 for files up to a mean divergence of about 0.7, given how many tokens are scored: the
more there are, the fewer entries each needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qconvert.evaluation.divergence.scores import chunks, log_sums, losses, tops

if TYPE_CHECKING:
    import torch

TARGET = 1e-4
"""What the bound is to stay below, in nats."""

ERRORS = 3.0
"""Standard errors in the bound."""

GAIN, DOUBT = 0.3, 4.0
"""The file's own mass in the rest is used where it lowers the error to such a part, unless the
means with and without it are so many errors apart."""

SPREAD = 2.0
"""Variance of ln(p / q) over the rest that `choose_share` prepares for; measured: 0.3 at a mean
divergence of 0.15, 1.3 at 0.62."""

STEPS = 48
"""Shares are powers of 1 / sqrt(2), down to this one."""


@dataclass(frozen=True)
class CompactWindow:
    """What is kept of a window's distributions.

    Attributes:
        loss: float64 [scored], negative log probability of the true token.
        top: int64 [scored], the most probable token.
        mass: float64 [scored], of the rest.
        kept: int32 [scored], how many tokens are kept.
        drawn: int32 [scored], how many are in each of the two draws.
        kept_ids, kept_log_p: of all tokens, one behind the other; unsigned, and float32.
        drawn_ids, drawn_log_p: the same; of each token first one draw, then the other.
    """

    loss: np.ndarray
    top: np.ndarray
    mass: np.ndarray
    kept: np.ndarray
    drawn: np.ndarray
    kept_ids: np.ndarray
    kept_log_p: np.ndarray
    drawn_ids: np.ndarray
    drawn_log_p: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A file's divergences in a window, before the draws are averaged.

    Attributes:
        known: float64 [scored], the sum over what is kept.
        drawn: float64 [scored, 2], m times the mean of ln(p / q), of each draw.
        ratio: float64 [scored, 2], m times the mean of q / p, of each draw.
        missing: float64 [scored], the file's mass in the rest.
    """

    known: np.ndarray
    drawn: np.ndarray
    ratio: np.ndarray
    missing: np.ndarray


def choose_share(logits: np.ndarray, scored: int) -> float:
    """The largest share with which the bound stays below its target, for text like this window's;
    0, which keeps everything, where little would be left out.

    Args:
        logits: float32 [rows, vocabulary], a window of the reference's.
        scored: tokens that are scored in all.
    """
    import torch

    rows, vocabulary = logits.shape
    mass, count = np.zeros(STEPS), np.zeros(STEPS)
    for part, sums in zip(chunks(logits), _like_chunks(logits, log_sums(logits)), strict=True):
        log_p = (part - torch.from_numpy(sums).float()[:, None]).flatten()
        steps = (log_p * (-2 / np.log(2))).clamp_(0, STEPS - 1).long()
        mass += torch.bincount(steps, log_p.exp_().double(), STEPS).numpy() / rows
        count += torch.bincount(steps, minlength=STEPS).numpy() / rows
    budget = scored * (TARGET / ERRORS) ** 2
    for step in range(2, STEPS):
        share, rest = 2.0 ** (-step / 2), mass[step:].sum()
        if SPREAD * share * rest <= budget:
            entries = count[:step].sum() + rest / share
            return share if entries < vocabulary / 2 else 0.0
    return 0.0


def condense(
    logits: np.ndarray, targets: np.ndarray, share: float, rng: np.random.Generator
) -> CompactWindow:
    """Keep the essence of a window's distributions.

    Args:
        logits: float32 [rows, vocabulary].
        targets: int [rows], the true tokens.
        share: tokens as probable as this are kept.
        rng: draws from the rest.
    """
    import torch

    sums = log_sums(logits)
    kind = np.uint16 if logits.shape[1] <= 1 << 16 else np.uint32
    parts = []
    for part, own in zip(chunks(logits), _like_chunks(logits, sums), strict=True):
        p = (part - torch.from_numpy(own).float()[:, None]).exp_()
        keep = p >= share
        kept_rows, kept_ids = np.nonzero(keep.numpy())
        cumulated = p.masked_fill_(keep, 0).cumsum(1, dtype=torch.float64)
        mass = cumulated[:, -1].numpy().copy()
        drawn, drawn_rows, drawn_ids = _draw(cumulated, mass, share, rng)
        flat = part.numpy()
        parts.append(
            (
                mass,
                keep.sum(1).numpy().astype(np.int32),
                drawn,
                kept_ids.astype(kind),
                (flat[kept_rows, kept_ids] - own[kept_rows]).astype(np.float32),
                drawn_ids.astype(kind),
                (flat[drawn_rows, drawn_ids] - own[drawn_rows]).astype(np.float32),
            )
        )
    arrays = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    return CompactWindow(losses(logits, sums, targets), tops(logits), *arrays)


def _like_chunks(logits: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """Values of rows, cut as `chunks` cuts the rows."""
    ends = np.cumsum([len(part) for part in chunks(logits)])[:-1]
    return np.split(values, ends)


def _draw(
    cumulated: "torch.Tensor", mass: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two systematic draws from each row.

    Args:
        cumulated: torch.float64 [rows, vocabulary], of the probabilities in the rest.
        mass: float64 [rows], the last of each.

    Returns:
        How many each draw of a row has, and rows and tokens of all.
    """
    import torch

    starts = rng.random((len(mass), 2, 1))
    count = np.zeros(len(mass), np.int32)
    some = mass > 0
    if share > 0:
        count[some] = np.ceil(mass[some] / (2 * share)).astype(np.int32)
    most = int(count.max(initial=0))
    steps = np.arange(most) + starts
    # Rounding may not lead behind the last token.
    places = np.minimum(steps / np.maximum(count, 1)[:, None, None], 1 - 1e-12)
    points = torch.from_numpy((places * mass[:, None, None]).reshape(len(mass), -1))
    found = torch.searchsorted(cumulated, points, right=True).numpy()
    used = np.arange(most) < count[:, None, None]
    used = np.broadcast_to(used, places.shape).reshape(len(mass), -1)
    return count, np.nonzero(used)[0], found[used]


def compare(window: CompactWindow, logits: np.ndarray, sums: np.ndarray) -> Estimate:
    """A file's divergences in a window.

    Args:
        logits: the file's, float32 [rows, vocabulary].
        sums: their `log_sums`.
    """
    rows = len(window.kept)
    row = np.repeat(np.arange(rows), window.kept)
    log_q = logits[row, window.kept_ids].astype(np.float64) - sums[row]
    log_p = window.kept_log_p.astype(np.float64)
    known = np.bincount(row, np.exp(log_p) * (log_p - log_q), rows)
    covered = np.bincount(row, np.exp(log_q), rows)

    row = np.repeat(np.arange(rows), 2 * window.drawn)
    log_q = logits[row, window.drawn_ids].astype(np.float64) - sums[row]
    gap = window.drawn_log_p - log_q
    first = np.repeat(np.cumsum(2 * window.drawn) - window.drawn, 2 * window.drawn)
    half = 2 * row + (np.arange(len(row)) >= first)
    weight = (window.mass / np.maximum(window.drawn, 1))[:, None]
    drawn, ratio = (
        np.bincount(half, values, 2 * rows).reshape(rows, 2) * weight
        for values in (gap, np.exp(-gap))
    )
    return Estimate(known, drawn, ratio, np.maximum(1 - covered, 0))


def conclude(estimates: Sequence[Estimate]) -> tuple[np.ndarray, float]:
    """Divergences of all windows, float64 [windows, scored], and the bound of their mean."""
    known = np.stack([one.known for one in estimates])
    drawn = np.stack([one.drawn for one in estimates])
    plain, error = known + drawn.mean(axis=2), _error(drawn)
    ratio = np.stack([one.ratio for one in estimates])
    better = plain + ratio.mean(axis=2) - np.stack([one.missing for one in estimates])
    better_error = _error(drawn + ratio)
    if better_error >= GAIN * error:
        return plain, ERRORS * error
    # A rare token with a large q / p, which no draw has met, would show in the means.
    apart = float(abs(better.mean() - plain.mean()))
    if apart > DOUBT * error:
        return plain, max(apart, ERRORS * error)
    return better, ERRORS * better_error


def _error(halves: np.ndarray) -> float:
    """Of the mean over tokens, from two independent estimates of each, [windows, scored, 2]."""
    difference = (halves[..., 0] - halves[..., 1]) / 2
    return float(np.sqrt(np.square(difference).sum()) / difference.size)
