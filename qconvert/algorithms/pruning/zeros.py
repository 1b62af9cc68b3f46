"""Which weights become zeros, and what the others become to make up for them.

    by size       |w_ij| * root of E x_j^2, compared within a row                          (Wanda)
    made up for   column after column as in `qconvert.algorithms.feedback`: what costs least by
                  w_ij^2 / U_jj^2 goes, and the columns behind take up the error       (SparseGPT)

A pattern n:m leaves at most n of m neighbours in a row; a share leaves out as many of each row.
Sources: M. Sun et al., arXiv 2306.11695; E. Frantar and D. Alistarh, arXiv 2301.00774.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from qconvert.errors import UsageError
from qconvert.formats.types import Seen

SPAN = 128
"""Columns whose share of zeros is chosen together."""

PATTERN = re.compile(r"(\d{1,2}):(\d{1,2})")


@dataclass(frozen=True)
class Pattern:
    """Which share of the weights of a row go.

    Attributes:
        share: of all.
        of: of so many neighbours; 0 for the whole row.
    """

    share: float
    of: int = 0


def read_pattern(text: str) -> Pattern:
    """Of "0.5", "50%" or "2:4".

    Raises:
        UsageError: anything else.
    """
    match = PATTERN.fullmatch(text)
    if match is not None:
        stay, of = int(match[1]), int(match[2])
        if 0 < stay < of:
            return Pattern(1 - stay / of, of)
    else:
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = 0.0
        if 0 < share < 1:
            return Pattern(share)
    raise UsageError(
        f"--sparsity {text!r:.40} is neither a share nor a pattern", "write 0.5, 50% or 2:4"
    )


def without_smallest(w: Any, seen: Seen, pattern: Pattern) -> Any:
    """A weight with zeros, the others as they are.

    Args:
        w: torch float32 [rows, columns].
    """
    import torch

    size = w.abs() * torch.from_numpy(np.sqrt(seen.square)).to(w)
    return torch.where(_smallest(size, pattern), torch.zeros_like(w), w)


def made_up_for(w: Any, seen: Seen, pattern: Pattern) -> Any:
    """The same, with the others moved to what suits the inputs.

    Args:
        seen: with its factor (`qconvert.algorithms.damping.factored`).
    """
    import torch

    w, factor = w.clone(), seen.factor
    columns = w.shape[1]
    span = max(SPAN // pattern.of, 1) * pattern.of if pattern.of else SPAN
    for start in range(0, columns, span):
        stop = min(start + span, columns)
        own, triangle = w[:, start:stop], factor[start:stop, start:stop]
        size = own.abs() / triangle.diagonal()
        gone = _smallest(size, pattern)
        errors = torch.zeros_like(own)
        for j in range(stop - start):
            if pattern.of and j and j % pattern.of == 0:  # by what the columns have become
                some = slice(j, j + pattern.of)
                size = own[:, some].abs() / triangle.diagonal()[some]
                gone[:, some] = _smallest(size, pattern)
            error = torch.where(gone[:, j], own[:, j], 0) / triangle[j, j]
            own[:, j:] -= torch.outer(error, triangle[j, j:])
            errors[:, j] = error
        own.masked_fill_(gone, 0)
        w[:, stop:] -= errors @ factor[start:stop, stop:]
    return w


def _smallest(size: Any, pattern: Pattern) -> Any:
    """Which go, bool; of each row, or of each `of` neighbours, the smallest."""
    import torch

    rows, columns = size.shape
    of = pattern.of or columns
    whole = columns // of * of
    grouped = size[:, :whole].reshape(-1, of)
    count = round(pattern.share * of)
    order = grouped.argsort(dim=1, stable=True)[:, :count]
    gone = torch.zeros_like(grouped, dtype=torch.bool).scatter_(1, order, True)
    rest = torch.zeros(rows, columns - whole, dtype=torch.bool, device=size.device)
    return torch.cat([gone.reshape(rows, whole), rest], dim=1)
