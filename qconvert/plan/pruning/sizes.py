"""Which sizes are left: what was asked for, held against the model."""

from dataclasses import replace

from qconvert.algorithms.pruning.parts import fitting
from qconvert.errors import UsageError
from qconvert.model.open import Model
from qconvert.plan.pruning.cut import PARTS, Shape

CHOSEN = ("num_experts_per_tok",)
"""How many experts a token goes through."""


def sizes_left(
    model: Model, shape: Shape, wanted: dict[str, int], multiple: int
) -> tuple[Shape, tuple[str, ...]]:
    """The sizes that are left, and what is to be said of them.

    Args:
        wanted: by part, of those that change.
        multiple: rows keep a length that is a multiple of this, where they have one.

    Raises:
        UsageError: a size is none of the model's.
    """
    left, notices = shape, []
    for part in PARTS:
        if part not in wanted:
            continue
        whole = getattr(shape, part)
        _check(part, wanted[part], whole)
        size, why = _fit(part, wanted[part], shape, multiple)
        if why:
            notices.append(f"--{part} {wanted[part]} becomes {size}: {why}")
        left = replace(left, **{part: size})
    if left.experts < (least := _per_token(model)) and shape.experts:
        raise UsageError(
            f"--experts {left.experts} are fewer than the {least} that each token goes through",
            f"leave at least {least}",
        )
    return replace(left, kv=shape.kv * left.heads // shape.heads), tuple(notices)


def _check(part: str, size: int, whole: int) -> None:
    if not whole:
        raise UsageError(f"--{part}: the model has none", "leave it out")
    if not 0 < size < whole:
        raise UsageError(
            f"--{part} {size} is what shall be left, and the model has {whole}",
            f"choose from 1 to {whole - 1}",
        )


def _fit(part: str, size: int, shape: Shape, multiple: int) -> tuple[int, str]:
    """The size, and why it is another one; nothing where it is not."""
    if part in ("layers", "experts"):
        return size, ""
    if part != "heads":
        made = fitting(size, getattr(shape, part), 1, multiple)
        return made, "" if made == size else f"rows stay multiples of {multiple}, without fallbacks"
    each = shape.heads // shape.kv
    whole = -(-size // each)
    groups = fitting(whole, shape.kv, each * shape.head, multiple)
    if groups > whole:
        return groups * each, f"rows stay multiples of {multiple}, without fallbacks"
    if groups * each > size:
        return groups * each, f"{each} heads share their keys and values"
    return size, ""


def _per_token(model: Model) -> int:
    found = [model.settings.get(name) for name in CHOSEN]
    return next((size for size in found if isinstance(size, int)), 1)
