"""What is asked of a smaller model, and what came of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qconvert.errors import UsageError
from qconvert.plan.pruning.cut import Shape
from qconvert.run.pruning.judge import Cost

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}

MULTIPLE = 256
"""Of weights in a row: what K-types divide rows by."""


@dataclass(frozen=True)
class Wanted:
    """How small a model is to be. None leaves a size as it is.

    Attributes:
        layers, ffn, heads, hidden, experts: what shall be left of each; heads are those of queries.
        parameters: all of them together; which parts go is searched for.
        under: the same in bytes of a file of `type`.
        type: a type of `quantize`.
        sparsity: zeros in place of smaller sizes: "0.5" or "2:4".
        multiple: rows keep a length that is a multiple of this, where they have one.
        tokens: of the calibration's that cuts are tried on.
        max_shard_size: bytes that a file of weights may have.
    """

    layers: int | None = None
    ffn: int | None = None
    heads: int | None = None
    hidden: int | None = None
    experts: int | None = None
    parameters: int | None = None
    under: int | None = None
    type: str | None = None
    sparsity: str | None = None
    multiple: int = MULTIPLE
    tokens: int = 4096
    max_shard_size: int | None = None

    @property
    def has_budget(self) -> bool:
        return self.parameters is not None or self.under is not None

    @property
    def sizes(self) -> dict[str, int]:
        """Those that were named."""
        named = {part: getattr(self, part) for part in ("layers", "ffn", "heads", "hidden")}
        named["experts"] = self.experts
        return {part: size for part, size in named.items() if size is not None}


@dataclass(frozen=True)
class Curve:
    """What it costs to leave ever more of one part out, on the tokens that cuts are tried on.

    Attributes:
        part: "layers", "ffn" or "heads".
        costs: by what is left, the largest first.
    """

    part: str
    costs: Mapping[int, Cost]


@dataclass(frozen=True)
class Sparse:
    """Weights that became zeros.

    Attributes:
        zeros: of the weights that were made sparse, the share.
        weights: how many these are.
        moved: matrices whose other weights were moved, since that helped on unseen windows.
        matrices: how many there are.
    """

    zeros: float
    weights: int
    moved: int
    matrices: int


@dataclass(frozen=True)
class Pruned:
    """What came of it.

    Attributes:
        path: of the directory.
        before, after: sizes.
        parameters: before and after.
        nbytes: of the weights, before and after.
        layers: the numbers of those that are gone, in the order in which they went.
        original, cost: on tokens of the calibration that nothing was chosen by; None where that
            takes the finished model, which a dry run has not.
        tokens: how many of these.
        curves: what was measured to choose.
        sparse: of weights that became zeros.
        fallbacks: tensors of a K-type's file that would take another type for their sizes, before
            and after.
        notices: what the user should know.
        seconds: what it took.
        files: what was written; none by a dry run.
    """

    path: Path
    before: Shape
    after: Shape
    parameters: tuple[int, int]
    nbytes: tuple[int, int]
    layers: tuple[int, ...]
    original: Cost | None
    cost: Cost | None
    tokens: int
    curves: tuple[Curve, ...] = ()
    sparse: Sparse | None = None
    fallbacks: tuple[int, int] = (0, 0)
    notices: tuple[str, ...] = ()
    seconds: float = 0.0
    files: tuple[Path, ...] = field(default_factory=tuple)


def parse_count(text: str | None) -> int | None:
    """6000000000 of "6B".

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?)([KMB]?)", text.strip().upper())
    if match is None or not float(match[1]):
        raise UsageError(f"--to {text!r:.40} is no number of parameters", "write 6B or 500M")
    return round(float(match[1]) * UNITS[match[2]])


def check_wanted(wanted: Wanted) -> None:
    """Refuse what cannot be asked for together.

    Raises:
        UsageError: naming what is.
    """
    asked = [*wanted.sizes, *(["a budget"] if wanted.has_budget else [])]
    if wanted.parameters is not None and wanted.under is not None:
        raise UsageError("--to and --under are two budgets", "give one of them")
    if (wanted.under is None) != (wanted.type is None):
        raise UsageError("--under and --type go together", "write --under 4GB -t q4_k_m")
    if wanted.has_budget and wanted.sizes:
        raise UsageError(
            f"a budget chooses sizes, and --{next(iter(wanted.sizes))} names one",
            "leave one of them out",
        )
    if wanted.sparsity is not None and asked:
        raise UsageError(
            "--sparsity keeps every part, and others are to be left out",
            "do one after the other: the result of prune is a model for prune",
        )
    if wanted.sparsity is None and not asked:
        raise UsageError(
            "nothing is to be left out", "name what is to be left: --layers 24, --to 6B"
        )
