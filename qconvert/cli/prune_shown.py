"""What `prune` says of a smaller model."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qconvert.cli import render
from qconvert.containers.sizes import human_bytes

if TYPE_CHECKING:
    from qconvert.run.pruning.judge import Cost
    from qconvert.run.pruning.types import Curve, Pruned

SIZES = {
    "layers": "layers",
    "ffn": "feed-forward",
    "heads": "heads",
    "kv": "heads of keys and values",
    "hidden": "width",
    "experts": "experts",
}

BAR, WIDTH = "\N{BLACK SQUARE}", 40
"""Of the plot, and its columns."""


def describe(made: "Pruned") -> dict[str, Any]:
    """For JSON."""
    before, after = asdict(made.before), asdict(made.after)
    return {
        "path": str(made.path),
        "files": [str(path) for path in made.files],
        "sizes": {name: {"before": before[name], "after": after[name]} for name in SIZES},
        "parameters": dict(zip(("before", "after"), made.parameters, strict=True)),
        "bytes": dict(zip(("before", "after"), made.nbytes, strict=True)),
        "layers_gone": list(made.layers),
        "sparsity": asdict(made.sparse) if made.sparse else None,
        "original": _cost(made.original),
        "cost": _cost(made.cost),
        "unseen_tokens": made.tokens,
        "measured": {
            one.part: [{"left": n, **cost._asdict()} for n, cost in one.costs.items()]
            for one in made.curves
        },
        "fallbacks": dict(zip(("before", "after"), made.fallbacks, strict=True)),
        "notices": list(made.notices),
        "seconds": round(made.seconds, 3),
    }


def _cost(cost: "Cost | None") -> dict[str, float] | None:
    return cost._asdict() if cost else None


def show(made: "Pruned") -> None:
    """Sizes, what was measured and what it costs."""
    before, after = asdict(made.before), asdict(made.after)
    rows: list[tuple[object, ...]] = [
        (title, before[name], after[name], _share(after[name], before[name]))
        for name, title in SIZES.items()
        if before[name]
    ]
    old, new = made.parameters
    rows.append(("parameters", render.human_count(old), render.human_count(new), _share(new, old)))
    rows.append(("bytes", *map(human_bytes, made.nbytes), _share(made.nbytes[1], made.nbytes[0])))
    render.print_table(("", ">before", ">after", ">left"), rows)
    for curve in made.curves:
        render.show("\n".join(plot(curve)) + "\n")
    for line in lines(made):
        render.show(line)
    if made.files:
        render.show_path(made.path)


def _share(new: int, old: int) -> str:
    return "" if new == old else f"{new / old:.0%}"


def lines(made: "Pruned") -> list[str]:
    """What there is to say besides."""
    found = []
    if made.layers:
        found.append(f"layers that go, in this order: {', '.join(map(str, made.layers))}")
    if made.sparse:
        found.append(
            f"{made.sparse.zeros:.1%} of {made.sparse.weights:,} weights are zeros; in "
            f"{made.sparse.moved} of {made.sparse.matrices} matrices the others were moved"
        )
    if made.cost and made.original:
        found.append(
            f"on {made.tokens} unseen tokens: KL divergence {made.cost.divergence:.4g}, "
            f"perplexity {made.original.perplexity:.4g} -> {made.cost.perplexity:.4g}"
        )
    elif not made.files:
        found.append("what it costs is told when it is made: it cannot be tried before")
    before, after = made.fallbacks
    if after > before:
        found.append(
            f"{after} tensors of a q4_k_m file will fall back to another type ({before} before): "
            "sizes that are multiples of 256 need none"
        )
    found += made.notices
    return found


def plot(curve: "Curve") -> list[str]:
    """Divergence by what is left, as bars."""
    most = max(cost.divergence for cost in curve.costs.values()) or 1.0
    found = [f"{SIZES[curve.part]} left: mean KL divergence on the tokens that it is chosen by"]
    for left, cost in curve.costs.items():
        bar = BAR * max(round(WIDTH * cost.divergence / most), 1)
        found.append(f"{left:>8} {cost.divergence:10.4g} {bar}")
    return found
