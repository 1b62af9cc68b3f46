"""Feedback: columns are rounded one after the other, and those that follow take up the error.

    U^T U = inv(H)                        H: second moments of the inputs, damped
    for each span of columns:
        fit scales to what the weights have become, with the importance 1 / U_jj^2
        for each column j of it:
            e = (w_j - rounded w_j) / U_jj
            w_k -= e U_jk                 for all k > j

1 / U_jj^2 is what an error of column j costs when the columns behind it have done their best to
make up for it. Scales are stored as they are fitted, so that rounding sees the file's own grid.
Of wide spans they are fitted several times: what the weights become is known when they have been
rounded. Formats whose codes stand for several weights at once are rounded a span at a time.

Sources: E. Frantar et al., "GPTQ", arXiv 2210.17323; J. Chee et al., "QuIP", arXiv 2307.13304
(LDLQ, which is the same).
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from qconvert.formats.quantize import nearest
from qconvert.formats.types import Coded, Format, Grid, Seen, Weights

PIECE = 256
"""Columns that the kernel takes at a time; a product takes the error on to the others."""

WIDE = 128
"""Columns of a span whose scales are fitted several times: that is worth 4 to 7% of the error of
super-blocks, 2 to 4% of groups of 128 and more, and 1% of those of 64 and 32."""

TRIES = 4
"""Fits of which each row takes the best."""


def feedback(format_: Format, x: Weights, seen: Seen | None, peak: float | None) -> Coded:
    """Codes and params of some rows; as `nearest` without a factor of H."""
    import torch

    if seen is None or seen.factor is None or not x.size:
        return nearest(format_, x, seen, peak)
    columns = x.shape[1]
    factor = seen.factor
    importance = np.square(1 / factor.diagonal().cpu().numpy())
    w = torch.from_numpy(x.copy()).to(factor.device)
    span = format_.span(columns)
    made: list[Coded] = []
    for start in range(0, columns, span):
        stop = min(start + span, columns)
        own = Span(w[:, start:stop], factor[start:stop, start:stop], importance[start:stop], peak)
        coded, errors = _fitted(format_, own)
        w[:, stop:] -= errors @ factor[start:stop, stop:]
        made.append(coded)
    whole = format_.join([one.params for one in made])
    return Coded(np.hstack([one.codes for one in made]), whole)


class Span(NamedTuple):
    """Columns that are fitted without regard to the others.

    Attributes:
        w: torch float32 [rows, columns].
        factor: torch float32 [columns, columns], upper triangular.
        importance: float32 [columns].
        peak: as `Format.fit` takes it.
    """

    w: Any
    factor: Any
    importance: np.ndarray
    peak: float | None


def _fitted(format_: Format, span: Span) -> tuple[Coded, Any]:
    """Codes and params of a span, and its errors, divided by the factor's diagonal."""
    own = span.w.cpu().contiguous().numpy()
    columns = span.w.T.contiguous()
    params, grid = _fit(format_, span, own)
    if grid is None:
        return _round_together(format_, span, params)
    if len(columns) >= WIDE:
        params, grid = _fit(format_, span, _best_target(format_, span, own, columns, grid))
    codes, errors, _ = _round(columns, span.factor, grid)
    return Coded(np.ascontiguousarray(codes.T), params), errors.T


def _fit(format_: Format, span: Span, weights: Weights) -> tuple[Any, Any]:
    """Params, and the grid; None where codes stand for several weights at once."""
    params = format_.fit(weights, Seen(span.importance), span.peak)
    return params, format_.grid(params)


def _best_target(format_: Format, span: Span, own: Weights, columns: Any, grid: Grid) -> Weights:
    """What scales are best fitted to, of a wide span.

    Scales are fitted before columns take up the errors of those in front of them, so they are
    fitted again to what the columns had become, in the mean over all tries: each row keeps what
    gave it the least error.

    Args:
        own, columns: the span's weights, as rows in numpy and as columns in torch.
        grid: what own was fitted to.
    """
    weights: Weights = own
    best: Weights = own.copy()
    least = np.full(len(own), np.inf, np.float32)
    become = np.zeros_like(own)
    for tried in range(TRIES):
        if tried:
            weights = become / np.float32(tried)
            _, grid = _fit(format_, span, weights)
        _, errors, rounded = _round(columns, span.factor, grid)
        error = _by_step(errors.square().sum(0).cpu().numpy(), format_.row_step)
        np.copyto(best, weights, where=(error < least)[:, None])
        np.minimum(error, least, out=least)
        become += rounded.T.cpu().numpy()
    return best


def _by_step(error: np.ndarray, step: int) -> np.ndarray:
    """The errors of rows, summed over those that share scales."""
    step = min(step, len(error))  # of formats whose rows all share them it has no end
    firsts = np.arange(0, len(error), step)
    return np.repeat(np.add.reduceat(error, firsts), step)[: len(error)]


def _round(columns: Any, factor: Any, grid: Grid) -> tuple[np.ndarray, Any, Any]:
    """The codes of a span's columns, its errors, and what each weight had become when it was
    rounded.

    Columns are rounded on the CPU; products are where the factor is.

    Args:
        columns: torch float32 [columns, rows]; so are the results.
    """
    import torch

    from qconvert.kernels.feedback import round_with_feedback

    kind = np.int8 if grid.first < 0 else np.uint8
    levels = _levels(grid.values.tobytes(), grid.first, kind)
    steps = np.ascontiguousarray(grid.step.T), np.ascontiguousarray(grid.low.T)
    w = columns.clone()
    codes = np.empty(w.shape, np.uint8)
    errors = torch.empty_like(w)
    for begin in range(0, len(w), PIECE):
        piece = slice(begin, min(begin + PIECE, len(w)))
        own, off = w[piece].cpu(), errors[piece].cpu()
        round_with_feedback(
            own.numpy(),
            factor[piece, piece].cpu().contiguous().numpy(),
            begin,
            grid.size,
            *steps,
            *levels,
            codes[piece],
            off.numpy(),
        )
        if piece.stop < len(w) or not w.is_cpu:
            w[piece], errors[piece] = own, off
            w[piece.stop :] -= factor[piece, piece.stop :].T @ errors[piece]
    return codes.view(kind), errors, w


@lru_cache(maxsize=8)
def _levels(
    values: bytes, first: int, kind: type[np.int8 | np.uint8]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The finite ones of float32 values in ascending order, what lies between two of them, or
    nothing where they are a step apart, and the code of each, where codes count from `first`."""
    ascending, at = np.unique(np.frombuffer(values, np.float32), return_index=True)
    is_finite = np.isfinite(ascending)
    ascending, at = ascending[is_finite], at[is_finite] + first
    middles = (ascending[1:] + ascending[:-1]) / 2
    if (np.diff(ascending) == 1).all():
        middles = middles[:0]
    return ascending, middles, at.astype(kind).view(np.uint8)


def _round_together(format_: Format, span: Span, params: Any) -> tuple[Coded, Any]:
    """The same where a span is rounded by `fit` itself."""
    import torch

    codes = format_.round(span.w.cpu().contiguous().numpy(), params)
    back = torch.from_numpy(format_.dequantize(format_.pack(codes, params))).to(span.w.device)
    errors = torch.linalg.solve_triangular(span.factor, span.w - back, upper=True, left=False)
    return Coded(codes, params), errors
