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

from collections.abc import Callable
from functools import lru_cache, partial
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
    w = torch.from_numpy(np.ascontiguousarray(x.T)).to(factor.device)
    span = format_.span(columns)
    step = max(PIECE // span, 1) * span
    made: list[Coded] = []
    for start in range(0, columns, step):
        here = slice(start, min(start + step, columns))
        own = factor[here, here]
        # A GPU is no place for many small products.
        some = Columns(w[here].cpu().numpy(), own.cpu() if step <= PIECE else own, importance[here])
        errors = np.empty_like(some.w)
        for first in range(0, len(errors), span):
            one = slice(first, min(first + span, len(errors)))
            coded, errors[one] = _fitted(format_, some.part(one), peak)
            made.append(coded)
            if one.stop < len(errors):
                some.w[one.stop :] -= _taken_on(some.factor[one, one.stop :], errors[one])
        w[here.stop :] -= factor[here, here.stop :].T @ torch.from_numpy(errors).to(w.device)
    whole = format_.join([one.params for one in made])
    return Coded(np.hstack([one.codes for one in made]), whole)


def _taken_on(factor: Any, errors: np.ndarray) -> np.ndarray:
    """What columns behind take on of errors [columns, rows]: a product where the factor is."""
    import torch

    product: np.ndarray = (factor.T @ torch.from_numpy(errors).to(factor.device)).cpu().numpy()
    return product


class Columns(NamedTuple):
    """Some columns of a weight, and what they need not know the others for.

    Attributes:
        w: float32 [columns, rows].
        factor: torch float32 [columns, columns], upper triangular.
        importance: float32 [columns].
    """

    w: np.ndarray
    factor: Any
    importance: np.ndarray

    def part(self, some: slice) -> "Columns":
        return Columns(self.w[some], self.factor[some, some], self.importance[some])


class Rounded(NamedTuple):
    """What becomes of a span's columns, [columns, rows].

    Attributes:
        codes: uint8, the bits of int8 where a grid has negative codes.
        errors: float32, divided by the factor's diagonal.
        become: float32, the weights when they were rounded.
    """

    codes: np.ndarray
    errors: np.ndarray
    become: np.ndarray


def _fitted(format_: Format, span: Columns, peak: float | None) -> tuple[Coded, np.ndarray]:
    """Codes and params of a span, and its errors [columns, rows], divided by the factor's
    diagonal."""
    fit = partial(format_.fit, seen=Seen(span.importance), peak=peak)
    own = np.ascontiguousarray(span.w.T)
    params = fit(own)
    grid = format_.grid(params)
    if grid is None:
        return _round_together(format_, span, own, params)
    made = _round(span, grid)
    if len(span.w) >= WIDE:
        params = fit(_best_target(format_, span, fit, own, made))
    codes = made.codes.T.view(np.int8 if grid.first < 0 else np.uint8)
    return Coded(np.ascontiguousarray(codes), params), made.errors


def _best_target(
    format_: Format, span: Columns, fit: Callable[[Weights], Any], own: Weights, made: Rounded
) -> Weights:
    """What the scales of a wide span are best fitted to, and in `made` what becomes of it then.

    Scales are fitted before columns take up the errors of those in front of them, so they are
    fitted again to what the columns had become, in the mean over all tries: each row keeps what
    gave it the least error.

    Args:
        own: the span's weights [rows, columns], to which the first fit was made.
        made: what came of that.
    """
    from qconvert.kernels.feedback import keep_better

    best: Weights = own.copy()
    least = np.full(len(own), np.inf, np.float32)
    become = np.zeros_like(made.become)
    step = min(format_.row_step, len(own))  # of formats whose rows all share scales it has no end
    keep_better(step, own, *made, least, best, *made[:2], become)
    for tried in range(1, TRIES):
        weights = np.divide(become.T, np.float32(tried), order="C")
        grid = format_.grid(fit(weights))
        assert grid is not None
        other = _round(span, grid)
        keep_better(step, weights, *other, least, best, *made[:2], become)
    return best


def _round(span: Columns, grid: Grid) -> Rounded:
    """A span's columns, rounded on the CPU; products are where the factor is."""
    from qconvert.kernels.feedback import round_with_feedback

    levels = _levels(grid.values.tobytes(), grid.first)
    steps = np.ascontiguousarray(grid.step.T), np.ascontiguousarray(grid.low.T)
    w, factor = span.w.copy(), span.factor
    made = Rounded(np.empty(w.shape, np.uint8), np.empty_like(w), w)
    for begin in range(0, len(w), PIECE):
        piece = slice(begin, min(begin + PIECE, len(w)))
        own = factor[piece, piece].cpu().contiguous().numpy()
        codes, errors = made.codes[piece], made.errors[piece]
        round_with_feedback(w[piece], own, begin, grid.size, *steps, *levels, codes, errors)
        if piece.stop < len(w):
            w[piece.stop :] -= _taken_on(factor[piece, piece.stop :], errors)
    return made


@lru_cache(maxsize=8)
def _levels(values: bytes, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The finite ones of float32 values in ascending order, what lies between two of them, or
    nothing where they are a step apart, and the code of each, where codes count from `first`:
    its bits, uint8."""
    ascending, at = np.unique(np.frombuffer(values, np.float32), return_index=True)
    is_finite = np.isfinite(ascending)
    ascending, at = ascending[is_finite], at[is_finite] + first
    middles = (ascending[1:] + ascending[:-1]) / 2
    if (np.diff(ascending) == 1).all():
        middles = middles[:0]
    return ascending, middles, at.astype(np.uint8)


def _round_together(
    format_: Format, span: Columns, own: Weights, params: Any
) -> tuple[Coded, np.ndarray]:
    """The same as `_fitted` where a span is rounded by `fit` itself."""
    import torch

    codes = format_.round(own, params)
    off = torch.from_numpy((own - format_.dequantize(format_.pack(codes, params))).T)
    factor = span.factor
    errors = torch.linalg.solve_triangular(factor.T, off.to(factor.device), upper=False)
    return Coded(codes, params), errors.cpu().numpy()
