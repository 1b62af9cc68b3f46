"""Scores of tokens -> one row of the table.

Perplexity, its standard error and the correlation are defined as in llama.cpp's llama-perplexity,
so that they can be set beside published figures: over tokens. The standard error of the mean
divergence is over windows, for the tokens of one are not independent.
"""

import numpy as np

from qconvert.evaluation.divergence.types import Divergence, FileScores, Subject, TokenScores


def summarize(
    subject: Subject, scores: TokenScores, reference_loss: np.ndarray, bound: float
) -> FileScores:
    """What is told of a file.

    Args:
        subject: the file.
        scores: of its tokens.
        reference_loss: float64 [windows, scored of a window].
        bound: of the mean divergence.
    """
    perplexity, error = perplexity_of(scores.loss)
    return FileScores(
        path=subject.path,
        nbytes=subject.nbytes,
        bits_per_weight=subject.bits_per_weight,
        kind=subject.kind,
        notices=subject.notices,
        backend=subject.runtime.backend,
        perplexity=perplexity,
        perplexity_error=error,
        perplexity_ratio=float(np.exp((scores.loss - reference_loss).mean())),
        correlation=correlation(scores.loss, reference_loss),
        divergence=divergence_of(scores.divergence, bound),
        same_top=float(scores.same_top.mean()),
        rms_delta_p=float(np.sqrt(np.square(scores.delta_p).mean())),
        tokens=scores,
    )


def perplexity_of(loss: np.ndarray) -> tuple[float, float]:
    """exp of the mean loss, and its standard error over tokens; NaN where there is one."""
    perplexity = float(np.exp(loss.mean()))
    if loss.size < 2:
        return perplexity, float("nan")
    return perplexity, perplexity * float(loss.std(ddof=1) / np.sqrt(loss.size))


def divergence_of(values: np.ndarray, bound: float) -> Divergence:
    """The distribution of divergences.

    Args:
        values: float64 [windows, scored of a window].
        bound: see `Divergence`.
    """
    median, p90, p99, p999 = np.quantile(values, (0.5, 0.9, 0.99, 0.999))
    return Divergence(
        mean=float(values.mean()),
        standard_error=standard_error(values.mean(axis=1)),
        median=float(median),
        p90=float(p90),
        p99=float(p99),
        p999=float(p999),
        max=float(values.max()),
        bound=bound,
    )


def standard_error(means: np.ndarray) -> float:
    """Of the mean of independent values; NaN where there is one."""
    if len(means) < 2:
        return float("nan")
    return float(means.std(ddof=1) / np.sqrt(len(means)))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, over all tokens; NaN where one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 0 else float("nan")
