"""Feedback: columns are rounded one after the other, and those that follow take up the error.

    U^T U = inv(H)                        H: second moments of the inputs, damped
    for each span of columns:
        fit scales to what the weights have become, with the importance 1 / U_jj^2
        for each column j of it:
            e = (w_j - rounded w_j) / U_jj
            w_k -= e U_jk                 for all k > j

1 / U_jj^2 is what an error of column j costs when the columns behind it have done their best to
make up for it. Scales are stored as they are fitted, so that rounding sees the file's own grid.
Formats whose codes stand for several weights at once are rounded a span at a time.

Sources: E. Frantar et al., "GPTQ", arXiv 2210.17323; J. Chee et al., "QuIP", arXiv 2307.13304
(LDLQ, which is the same).
"""

from typing import Any

import numpy as np

from qconvert.formats.quantize import nearest
from qconvert.formats.types import Coded, Format, Grid, Seen, Weights

PIECE = 128
"""Columns that the kernel takes at a time; a product takes the error on to the others."""


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
        own = w[:, start:stop].cpu().contiguous()
        params = format_.fit(own.numpy(), Seen(importance[start:stop]), peak)
        grid = format_.grid(params)
        if grid is None:
            codes = _round_together(format_, w, factor, (start, stop), params)
        else:
            codes = _round(w, factor, (start, stop), grid)
        made.append(Coded(codes, params))
    whole = format_.join([one.params for one in made])
    return Coded(np.hstack([one.codes for one in made]), whole)


def _round(w: Any, factor: Any, span: tuple[int, int], grid: Grid) -> np.ndarray:
    """The codes of a span of columns; those behind it take up its errors.

    Columns are rounded on the CPU; products are where the factor is.

    Args:
        w: float32 [rows, columns], changed from the span on.
    """
    from qconvert.kernels.feedback import round_with_feedback

    start, stop = span
    ascending, first = np.unique(grid.values, return_index=True)
    is_finite = np.isfinite(ascending)
    ascending, first = ascending[is_finite], first[is_finite] + grid.first
    kind = np.int8 if grid.first < 0 else np.uint8
    places = first.astype(kind).view(np.uint8)
    middles = (ascending[1:] + ascending[:-1]) / 2
    steps = np.ascontiguousarray(grid.step), np.ascontiguousarray(grid.low)
    codes = np.empty((len(w), stop - start), np.uint8)
    for begin in range(start, stop, PIECE):
        end = min(begin + PIECE, stop)
        own = w[:, begin:end].cpu().contiguous()
        triangle = factor[begin:end, begin:end].cpu().contiguous().numpy()
        made = np.empty((len(w), end - begin), np.uint8)
        round_with_feedback(
            own.numpy(),
            triangle,
            begin - start,
            grid.size,
            *steps,
            ascending,
            middles,
            places,
            made,
        )
        codes[:, begin - start : end - start] = made
        w[:, end:] -= own.to(w.device) @ factor[begin:end, end:]
    return codes.view(kind)


def _round_together(
    format_: Format, w: Any, factor: Any, span: tuple[int, int], params: Any
) -> np.ndarray:
    """The same where a span is rounded by `fit` itself."""
    import torch

    start, stop = span
    own = w[:, start:stop]
    codes = format_.round(own.cpu().contiguous().numpy(), params)
    back = torch.from_numpy(format_.dequantize(format_.pack(codes, params))).to(w.device)
    triangle = factor[start:stop, start:stop]
    errors = torch.linalg.solve_triangular(triangle, own - back, upper=True, left=False)
    w[:, stop:] -= errors @ factor[start:stop, stop:]
    return codes
