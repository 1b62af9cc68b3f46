"""Which file to take: the Pareto front of divergence against size, and one file of it.

A file is dominated when another is at most as large and at most as far from the original, and
better in one of the two.
"""

import math
from collections.abc import Sequence

from qconvert.report.figures import nats, percent, size
from qconvert.report.types import Choice, Row, Wish

USUAL = 0.02
"""The mean divergence, in nats, that the file to take stays below where the user does not say:
between q4_k_m and q5_k_m of Llama 3 8B in llama.cpp's published table (0.031 and 0.011)."""

ERRORS = 2
"""Standard errors that are added to a measured mean before it counts as below."""


def is_sound(row: Row) -> bool:
    """Whether its figures are numbers."""
    return math.isfinite(row.divergence.mean) and math.isfinite(row.perplexity)


def front(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The files that no other dominates, the smallest first."""
    best = math.inf
    found = []
    for row in sorted(rows, key=_small_and_close):
        if is_sound(row) and row.divergence.mean < best:
            found.append(row)
            best = row.divergence.mean
    return tuple(found)


def choose(rows: Sequence[Row], wish: Wish) -> Choice:
    """The file to take.

    `under` asks for the least divergence in so many bytes, `within` for the fewest bytes at that
    perplexity, both for the least divergence of the files that meet both. A perplexity below
    the original's is another model's too, and is off as much as one above. Without a wish it is
    the smallest whose divergence is surely below 0.02 nats, or, if there is none, the closest to
    the original.
    """
    if wish.under is None and wish.within is None:
        sure = [row for row in front(rows) if _at_most(row) <= USUAL]
        if sure:
            rule = f"the smallest file that is at most {nats(USUAL, 1)} nats from the original"
            return Choice(sure[0], f"{rule}, the error of the measurement included")
        rule = f"the closest to the original; no file is surely within {nats(USUAL, 1)} nats of it"
        return Choice(_closest(rows), rule, "closest")
    small = [row for row in rows if wish.under is None or row.nbytes <= wish.under]
    if wish.under is None:
        assert wish.within is not None
        return Choice(_smallest(small, wish.within), _smallest_within(wish.within), "wish")
    rule = f"the least divergence of the files under {size(wish.under)}"
    if wish.within is None:
        return Choice(_closest(small), rule, "wish")
    near = [row for row in small if _is_within(row, wish.within)]
    rule += f" whose perplexity is within {percent(wish.within)} of the original"
    return Choice(_closest(near), rule, "wish")


def why_none(rows: Sequence[Row], wish: Wish) -> str:
    """What stands against every file, and what comes nearest; for when `choose` finds none."""
    sound = [row for row in rows if is_sound(row)]
    if not sound:
        return "no file has a perplexity that is a number"
    near = [row for row in sound if wish.within is None or _is_within(row, wish.within)]
    if not near:
        assert wish.within is not None
        best = min(sound, key=lambda row: (abs(row.perplexity_ratio - 1), row.nbytes))
        change = best.perplexity_ratio - 1
        return (
            f"no file's perplexity is within {percent(wish.within)} of the original: the nearest, "
            f"{best.name}, is {percent(abs(change))} {'above' if change > 0 else 'below'} it"
        )
    assert wish.under is not None
    least = min(near, key=_small_and_close)
    what = f" of those within {percent(wish.within)}" if wish.within is not None else ""
    return (
        f"no file is under {size(wish.under)}: the smallest{what}, {least.name}, "
        f"has {size(least.nbytes)}"
    )


def _at_most(row: Row) -> float:
    """What its mean divergence hardly exceeds; infinite where its error is not known."""
    error = row.divergence.standard_error
    return row.divergence.mean + ERRORS * error if math.isfinite(error) else math.inf


def by_container(rows: Sequence[Row], wish: Wish) -> dict[str, Row]:
    """The file to take of each container that has any, by what runs it."""
    of = {
        "For llama.cpp": [row for row in rows if is_gguf(row)],
        "For transformers and vLLM": [row for row in rows if not is_gguf(row)],
    }
    chosen = {name: choose(some, wish).row for name, some in of.items() if some}
    return {name: row for name, row in chosen.items() if row is not None}


def is_gguf(row: Row) -> bool:
    return row.path.endswith(".gguf")


def _smallest_within(share: float) -> str:
    return f"the smallest file whose perplexity is within {percent(share)} of the original"


def _closest(rows: Sequence[Row]) -> Row | None:
    sound = [row for row in rows if is_sound(row)]
    return min(sound, key=lambda row: (row.divergence.mean, row.nbytes), default=None)


def _smallest(rows: Sequence[Row], within: float) -> Row | None:
    near = [row for row in rows if _is_within(row, within)]
    return min(near, key=_small_and_close, default=None)


def _is_within(row: Row, share: float) -> bool:
    return is_sound(row) and abs(row.perplexity_ratio - 1) <= share


def _small_and_close(row: Row) -> tuple[int, float]:
    return row.nbytes, row.divergence.mean
