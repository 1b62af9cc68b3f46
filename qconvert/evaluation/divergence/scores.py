"""Logits of windows -> scores of tokens.

The divergence of a token is Kullback and Leibler's, KL(p || q) = sum p ln(p / q) with p the
reference's probabilities and q the file's, in nats. Exponentials are taken in float32 and summed in
float64, some rows at a time, which costs little beside the model and keeps memory bounded.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from qconvert.errors import CheckpointError, WeightError
from qconvert.evaluation.divergence.types import TokenScores

if TYPE_CHECKING:
    import torch

AT_ONCE = 1 << 22
"""Logits that a step works on."""

ONE_MODEL = "compare files that were made of one model"
"""What to do with a file whose tokens are others than the reference's."""


def log_sums(logits: np.ndarray) -> np.ndarray:
    """ln sum exp of each row, float64 [rows].

    Args:
        logits: float32 [rows, vocabulary].
    """
    import torch

    parts = [np.zeros(0)]
    for part in chunks(logits):
        highest = part.amax(1, keepdim=True)
        total = (part - highest).exp_().sum(1, dtype=torch.float64)
        parts.append((highest[:, 0].double() + total.log()).numpy())
    found: np.ndarray = np.concatenate(parts)
    return found


def chunks(logits: np.ndarray) -> "Iterator[torch.Tensor]":
    """Some rows after the other, as tensors that share the array's memory."""
    import torch

    step = max(1, AT_ONCE // logits.shape[1])
    for start in range(0, len(logits), step):
        yield torch.from_numpy(logits[start : start + step])


def losses(logits: np.ndarray, sums: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log probabilities of the true tokens, float64 [rows].

    Args:
        logits: float32 [rows, vocabulary].
        sums: of `log_sums`.
        targets: int [rows].
    """
    found: np.ndarray = sums - logits[np.arange(len(targets)), targets].astype(np.float64)
    return found


def tops(logits: np.ndarray) -> np.ndarray:
    """The most probable token of each row, int64; of equal ones the lowest."""
    found: np.ndarray = np.argmax(logits, axis=1)
    return found


def divergences(reference: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """KL(p || q) of each row, float64, both distributions known in full.

    Args:
        reference, logits: float32 [rows, vocabulary].
    """
    import torch

    parts = [np.zeros(0)]
    for base, other in zip(chunks(reference), chunks(logits), strict=True):
        weights = (base - base.amax(1, keepdim=True)).exp_()
        mean = ((base - other).mul_(weights)).sum(1, dtype=torch.float64)
        parts.append((mean / weights.sum(1, dtype=torch.float64)).numpy())
    found: np.ndarray = np.concatenate(parts) - (log_sums(reference) - log_sums(logits))
    return found


def check_shape(logits: np.ndarray, expected: tuple[int, int], name: str) -> None:
    """Refuse logits over other tokens than the reference's.

    Args:
        expected: scored tokens of a window, and the reference's vocabulary.
        name: of the file.

    Raises:
        CheckpointError: naming both sizes.
    """
    if logits.shape == expected:
        return
    raise CheckpointError(
        f"{name} gives {logits.shape[1]} logits for {logits.shape[0]} tokens, and the reference "
        f"{expected[1]} for {expected[0]}",
        ONE_MODEL,
    )


def check_finite(logits: np.ndarray, source: str, number: int) -> None:
    """Refuse logits that are NaN or infinite.

    Args:
        logits: of one window.
        source: the file's name.
        number: the window's, from 0.

    Raises:
        WeightError: naming both.
    """
    if not np.isfinite(logits.sum(dtype=np.float64)):
        raise WeightError(
            f"{source} gives logits that are NaN or infinite in window {number + 1}",
            "its weights may be damaged",
        )


def check_scores(scores: TokenScores, name: str) -> None:
    """Refuse scores that are NaN or infinite.

    Raises:
        WeightError: naming the file and the first window.
    """
    for values in (scores.loss, scores.divergence, scores.delta_p):
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise WeightError(
                f"{name}: probabilities in window {bad[0] + 1} are NaN or infinite",
                "its weights may be damaged",
            )


def assemble(
    loss: Any, divergence: np.ndarray, same_top: Any, reference_loss: np.ndarray
) -> TokenScores:
    """Scores of all windows, each argument [windows, scored of a window]."""
    own = np.asarray(loss, np.float64)
    return TokenScores(
        loss=own,
        divergence=divergence,
        same_top=np.asarray(same_top, bool),
        delta_p=np.exp(-own) - np.exp(-reference_loss),
    )
