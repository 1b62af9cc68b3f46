"""A checkpoint of the same sizes with zeros among its weights, written and measured."""

from dataclasses import replace
from pathlib import Path

from qconvert.algorithms.pruning.zeros import read_pattern
from qconvert.checkpoint.overlay import overlay
from qconvert.forward.walk import Walk
from qconvert.model.general import CARD
from qconvert.model.open import open_model
from qconvert.run.by_block import in_order
from qconvert.run.outputs import write_stale
from qconvert.run.pruning.desk import Desk
from qconvert.run.pruning.finish import cost_of, facts_of, recipe_of
from qconvert.run.pruning.judge import Judge
from qconvert.run.pruning.sparsity import make_sparse
from qconvert.run.pruning.types import Pruned, Wanted
from qconvert.run.pruning.write import card_of
from qconvert.run.transform import Change, plan_transform
from qconvert.run.types import Run

NO_FASTER = "zeros make a file compress better; no common runtime computes faster for them now"

WRITTEN = "Made sparse by qconvert {version}: weights of the original are zeros."


def prune_weights(desk: Desk, wanted: Wanted, output: Path, run: Run) -> Pruned:
    """Make it; a dry run says only what it would be.

    Raises:
        UsageError: the pattern cannot be read.
        OutputError: it cannot be written.
        WeightError: NaN or infinity comes out of a block.
    """
    model, shape = desk.model, desk.shape
    pattern = read_pattern(wanted.sparsity or "")
    plain = Pruned(
        output,
        shape,
        shape,
        (model.parameters, model.parameters),
        (model.checkpoint.nbytes, model.checkpoint.nbytes),
        (),
        None,
        None,
        desk.unseen.size,
        notices=(NO_FASTER,),
    )
    if run.dry:
        return plain
    tokens, shown = in_order(desk.every)
    walk = Walk(model, tokens, desk.place, cut=shown)
    walk.check_alone("pruned")
    sparse = make_sparse(walk, shown, pattern, desk.store, run.watcher)
    own = model.checkpoint.tensors
    changed = {name: info for name, info in desk.store.tensors.items() if name in own}
    judge = Judge(model, desk.unseen, desk.place)
    cost = cost_of(judge, open_model(overlay(model.checkpoint, changed)), desk)
    facts = {
        "Source": model.checkpoint.source,
        "Fingerprint": model.fingerprint,
        "Pattern": wanted.sparsity or "",
        "Zeros": f"{sparse.zeros:.1%} of {sparse.weights:,} weights of layers",
        **facts_of(judge, cost),
    }
    card = card_of(model, [weight.map for weight in model.weights], facts, WRITTEN)
    made_by = {"qconvert.sparsity": wanted.sparsity or ""}
    change = Change(changed, made_by, {CARD: card})
    plan = plan_transform(model.checkpoint, recipe_of(output, wanted), change)
    (result,) = write_stale([plan], run.threads, run.watcher, force=run.force)
    return replace(plain, original=judge.own, cost=cost, sparse=sparse, files=result.paths)
