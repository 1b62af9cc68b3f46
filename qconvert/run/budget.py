"""The recipe of an output with a budget: each tensor's type, chosen by what the model loses.

While that is measured there is a folder `.NAME.budget.partial` beside the output; see
`qconvert.containers.store`. It goes when the output is complete.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from qconvert.algorithms.allocate import Options, allocate, largest, smallest
from qconvert.containers.folder import work_folder
from qconvert.containers.sizes import human_bytes
from qconvert.containers.store import open_store
from qconvert.errors import PlanError
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import Model
from qconvert.plan.budget import Menu, menu
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.statistics import Statistics
from qconvert.run.executor import library_threads
from qconvert.run.fitting import linear_algebra_on
from qconvert.run.losses import Losses, measure_losses
from qconvert.run.types import Run

WINDOWS = 32
"""Of the sample, spread evenly: what tensors lose differs by far more than windows do."""

UNSEEN = 2
"""One of so many of them is not shown to formats, and tells what these lose."""

RETRIES = 8
"""So often less is given out where the padding between tensors makes the file too large."""


def within_budget(
    model: Model,
    recipe: Recipe,
    statistics: Statistics,
    tokens: np.ndarray,
    run: Run,
) -> Recipe:
    """The recipe with a type for each tensor.

    Args:
        tokens: int [windows, window].

    Raises:
        PlanError: the budget is below the smallest size, or what is said of single tensors does
            not leave room.
        Also what `menu`, `make_plan` and `measure_losses` raise.
    """
    what = menu(model, recipe, statistics)
    _check(what)
    if not what.candidates:
        return recipe
    losses = _losses(model, what, tokens, run)
    options = what.options(losses)
    room = what.budget - what.fixed
    if largest(options) <= room:
        run.watcher.note(
            f"{recipe.path(model.checkpoint.source).name}: there is room for the largest types, of "
            f"{human_bytes(largest(options) + what.fixed)}"
        )
    for _ in range(RETRIES):
        chosen = allocate(options, max(room, smallest(options)))
        made = what.recipe_of(chosen)
        excess = make_plan(model, made, statistics).nbytes - what.budget
        if excess <= 0:
            return made
        # The header says more of some choices than of others.
        room = min(room, sum(one.nbytes for one in chosen.values())) - excess
    raise _too_small(what, options)


def budget_of(path: Path) -> Path:
    """What the work on an output's budget is called."""
    return path.with_name(f"{path.name}.budget")


def _check(what: Menu) -> None:
    """What headers tell, before the model runs."""
    unknown = {name: [0.0 for _ in candidates] for name, candidates in what.candidates.items()}
    options = what.options(unknown)
    if smallest(options) + what.fixed > what.budget:
        raise _too_small(what, options)


def _too_small(what: Menu, options: Options) -> PlanError:
    most = sum(max(one.nbytes for one in each) for each in options.values())
    named = "what is said of single tensors takes" if what.recipe.overrides else "these types take"
    return PlanError(
        f"a budget of {what.budget} bytes is too small: {named} from "
        f"{smallest(options) + what.fixed} to {most + what.fixed}",
        "allow more, or name smaller types with --types",
    )


def _losses(model: Model, what: Menu, tokens: np.ndarray, run: Run) -> Losses:
    chosen = tokens[np.linspace(0, len(tokens) - 1, min(WINDOWS, len(tokens))).astype(int)]
    unseen = np.arange(len(chosen)) % UNSEEN == UNSEEN - 1
    if not unseen.any():
        unseen[-1] = True
    ordered = np.concatenate((chosen[~unseen], chosen[unseen]))
    cut = int(np.count_nonzero(~unseen))
    path = what.recipe.path(model.checkpoint.source)
    candidates = {name: list(options.values()) for name, options in what.candidates.items()}
    cores = library_threads()
    with _folder(path, run.dry) as place:
        named = budget_of(place)
        walk = Walk(
            model, ordered, Place(work_folder(named), run.device, batch=1, kept=True), cut=cut
        )
        about = (
            walk.identity,
            cut,
            cores,
            [
                (name, [(t.format, t.algorithm, t.nbytes) for t in each])
                for name, each in candidates.items()
            ],
        )
        with open_store(named, sha256(repr(about).encode()).hexdigest()) as store:
            run.watcher.note(
                f"{path.name}: what each tensor loses is measured first, on {ordered.size} tokens"
            )
            with linear_algebra_on(cores):
                return measure_losses(walk, candidates, store, run.watcher, run.threads)


@contextmanager
def _folder(path: Path, dry: bool) -> Iterator[Path]:
    """The path beside which to work: the output's, or one of a folder that goes at once."""
    if not dry:
        yield path
        return
    with TemporaryDirectory(prefix="qconvert-") as folder:
        yield Path(folder) / path.name
