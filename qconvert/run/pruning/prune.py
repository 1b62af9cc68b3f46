"""A smaller checkpoint: what is asked for, chosen, written and measured.

    calibration -> windows to choose by, and windows to tell what it cost
    layers by divergence, neurons, heads and channels by activation, experts by router -> Cut
    Cut -> plan -> directory

While it works there is a folder `.NAME.scores.partial` beside the output, with all that was
measured; see `qconvert.containers.store`. It goes when the output is complete.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from qconvert import __version__
from qconvert.calibration.file import check_calibration, read_calibration
from qconvert.checkpoint import Checkpoint
from qconvert.containers.directory import check_directory
from qconvert.containers.folder import work_folder
from qconvert.containers.store import open_store
from qconvert.errors import PlanError
from qconvert.forward.walk import Place
from qconvert.model.open import open_model
from qconvert.plan.pruning.plan import check_can_be_cut, notices_of
from qconvert.plan.pruning.sizes import sizes_left
from qconvert.run.by_block import in_order
from qconvert.run.pruning.choose import choose
from qconvert.run.pruning.desk import Desk
from qconvert.run.pruning.finish import finish
from qconvert.run.pruning.search import search
from qconvert.run.pruning.types import Pruned, Wanted
from qconvert.run.pruning.weights import prune_weights
from qconvert.run.types import Run

FEWEST = 3
"""Windows."""


def prune(
    checkpoint: Checkpoint, calibration: Path, output: Path, wanted: Wanted, run: Run
) -> Pruned:
    """Make a smaller checkpoint, or with `run.dry` say what it would be.

    Raises:
        UsageError: a size is none that can be left.
        UnsupportedError: the model, or a part of it, cannot be cut.
        PlanError: the calibration is another model's, or too short.
        OutputError: something is there already, no room, or it cannot be written.
    """
    started = time.monotonic()
    if not run.dry and not run.force:
        check_directory(output)
    model = open_model(checkpoint)
    check_can_be_cut(model)
    found = read_calibration(calibration)
    check_calibration(found, checkpoint)
    every, unseen = windows_of(found.sample.tokens)
    shown, unseen = (spread(tokens, wanted.tokens) for tokens in (every, unseen))
    with _folder(output, run.dry) as named:
        place = Place(work_folder(named), run.device)
        about = (model.fingerprint, shown.tobytes(), unseen.tobytes(), run.device, __version__)
        identity = sha256(repr((*about, wanted.sparsity)).encode()).hexdigest()
        with open_store(named, identity) as store:
            desk = Desk(model, found, every, shown, unseen, place, store, run.watcher)
            if wanted.sparsity is not None:
                made = prune_weights(desk, wanted, output, run)
            else:
                made = _prune_parts(desk, wanted, output, run)
            if not run.dry:
                store.delete()
    return replace(made, seconds=time.monotonic() - started)


def _prune_parts(desk: Desk, wanted: Wanted, output: Path, run: Run) -> Pruned:
    if wanted.has_budget:
        found = search(desk, wanted)
        choice = replace(choose(desk, found.left, found.rounds), curves=found.curves)
        told: tuple[str, ...] = ()
    else:
        left, told = sizes_left(desk.model, desk.shape, wanted.sizes, wanted.multiple)
        choice = choose(desk, left)
    made = finish(desk, choice, output, wanted, run)
    return replace(made, notices=(*told, *notices_of(desk.model)))


def windows_of(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows to choose by, and those to tell what it cost.

    Args:
        tokens: int [windows, window].

    Raises:
        PlanError: there are fewer than three windows.
    """
    if len(tokens) < FEWEST:
        raise PlanError(
            f"the calibration has {len(tokens)} windows: one is needed to choose by, one to guard "
            "that and one to tell what it cost",
            "calibrate with more --tokens",
        )
    ordered, count = in_order(tokens)
    return ordered[:count], ordered[count:]


def spread(tokens: np.ndarray, most: int) -> np.ndarray:
    """Windows of about so many tokens, spread evenly."""
    count = max(most // tokens.shape[1], 1)
    chosen = np.linspace(0, len(tokens) - 1, min(count, len(tokens))).astype(int)
    return np.ascontiguousarray(tokens[chosen])


@contextmanager
def _folder(output: Path, dry: bool) -> Iterator[Path]:
    """The path beside which to work: the output's, or one of a folder that goes at once."""
    if not dry:
        yield output.with_name(f"{output.name}.scores")
        return
    with TemporaryDirectory(prefix="qconvert-") as folder:
        yield Path(folder) / "scores"
