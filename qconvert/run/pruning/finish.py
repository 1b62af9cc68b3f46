"""What was chosen is written, or only told, with what it costs on tokens that nothing was chosen
by.
"""

from collections.abc import Mapping
from pathlib import Path

from qconvert.checkpoint import Checkpoint
from qconvert.containers.sizes import human_bytes
from qconvert.forward.head import Head
from qconvert.forward.walk import Walk
from qconvert.model.open import Model, open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.run.pruning.choose import Choice
from qconvert.run.pruning.desk import Desk
from qconvert.run.pruning.judge import Cost, Judge
from qconvert.run.pruning.types import Pruned, Wanted
from qconvert.run.pruning.write import plan_smaller, write_smaller
from qconvert.run.types import Run

TRIED = "q4_k_m"
"""The type whose fallbacks are counted, for all of K-types."""


def finish(desk: Desk, choice: Choice, output: Path, wanted: Wanted, run: Run) -> Pruned:
    """Write it and measure it; with `run.dry` measure what can be without.

    Raises:
        OutputError: it cannot be written.
        WeightError: a weight is NaN or infinite.
    """
    smaller = choice.smaller
    fallbacks = _fallbacks(desk.model), _fallbacks(smaller.model)
    judge = Judge(desk.model, desk.unseen, desk.place)
    cost: Cost | None = None
    files: tuple[Path, ...] = ()
    plan = plan_smaller(smaller, recipe_of(output, wanted), made_by(choice))
    if run.dry:
        cost = judge.costs([choice.trial])[0] if choice.trial is not None else None
    else:
        measured: list[Cost] = []

        def facts(made: Checkpoint) -> Mapping[str, str]:
            measured.append(cost_of(judge, open_model(made), desk))
            costs = facts_of(judge, measured[0])
            return {**_facts(choice), **costs}

        if run.force:
            plan.target.clear()
        result = write_smaller(smaller, plan, facts, run.threads, run.watcher)
        cost, files = measured[0], result.paths
    return Pruned(
        output,
        smaller.shape,
        smaller.left,
        (desk.model.parameters, smaller.parameters),
        (desk.model.checkpoint.nbytes, smaller.nbytes),
        choice.gone,
        judge.own,
        cost,
        desk.unseen.size,
        choice.curves,
        fallbacks=fallbacks,
        files=files,
    )


def cost_of(judge: Judge, model: Model, desk: Desk) -> Cost:
    """What a finished model costs."""
    walk = Walk(model, judge.tokens, desk.place)
    for block in walk:
        block.run()
    head = Head(walk.source, walk.device, walk.dtype)
    return judge.compare([list(walk.last_hidden())], head)[0]


def made_by(choice: Choice) -> dict[str, str]:
    """What headers say of how it came to be."""
    left = choice.smaller.left
    named = {
        "layers": list(choice.smaller.cut.blocks),
        "ffn": left.ffn,
        "heads": left.heads,
        "hidden": left.hidden,
        "experts": left.experts,
    }
    return {"qconvert.kept": str(named)}


def recipe_of(output: Path, wanted: Wanted) -> Recipe:
    return Recipe("prune", output=output, max_shard_size=wanted.max_shard_size)


def facts_of(judge: Judge, cost: Cost) -> dict[str, str]:
    """What the card says of the cost."""
    tokens, own = judge.tokens.size, judge.own
    return {
        "KL divergence from the source": f"{cost.divergence:.4g}, on {tokens} unseen tokens",
        "Perplexity": f"{cost.perplexity:.4g}, of the source {own.perplexity:.4g}",
    }


def _facts(choice: Choice) -> dict[str, str]:
    smaller = choice.smaller
    before, after = smaller.shape, smaller.left
    sizes = {
        "Layers": (before.layers, after.layers),
        "Feed-forward": (before.ffn, after.ffn),
        "Heads": (before.heads, after.heads),
        "Heads of keys and values": (before.kv, after.kv),
        "Width": (before.hidden, after.hidden),
        "Experts": (before.experts, after.experts),
        "Parameters": (smaller.whole.parameters, smaller.parameters),
    }
    lines = {
        name: f"{new:,} of {old:,}" if new != old else f"{new:,}"
        for name, (old, new) in sizes.items()
        if old
    }
    return {
        "Source": smaller.whole.checkpoint.source,
        "Fingerprint": smaller.whole.fingerprint,
        **lines,
        **({"Layers that are gone": ", ".join(map(str, choice.gone))} if choice.gone else {}),
        "Bytes of weights": human_bytes(smaller.nbytes),
    }


def _fallbacks(model: Model) -> int:
    recipe = Recipe(TRIED, output=Path("tried.gguf"), vocabulary=False)
    return len(make_plan(model, recipe).fallbacks)
