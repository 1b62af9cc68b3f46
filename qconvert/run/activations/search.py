"""The model at work on its calibration's sample once more: to choose how strongly each input is
smoothed, and to see what is left of it.

For the choice a few windows are enough, spread over the sample: candidates are tried on their
tokens, the first of a window among them, with the hidden states of the unquantized model. The
histograms of smoothed inputs take all windows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qconvert.algorithms.activation_ranges import Bounds, static_bounds
from qconvert.algorithms.massive import losses
from qconvert.algorithms.smooth import ALPHAS
from qconvert.algorithms.smooth_search import Trial, output_errors
from qconvert.calibration.statistics import Collector
from qconvert.calibration.types import Calibration, InputStatistics
from qconvert.containers.folder import open_folder
from qconvert.containers.room import ELSEWHERE
from qconvert.errors import PlanError
from qconvert.formats.safetensors.types import ActivationFormat, Estimator
from qconvert.forward.linears import Linear, rows_of
from qconvert.forward.walk import Block, Place, Walk
from qconvert.machine.watcher import Watcher
from qconvert.model.open import Model
from qconvert.run.activations.joints import Joint
from qconvert.run.activations.kept import Found, keep, take_up
from qconvert.run.fitting import spread

SEARCH_TOKENS = 2048
"""On which candidates are tried."""

ROWS_TRIED = 256
"""Of each weight, spread evenly: rows have scales of their own."""

EXPERTS_TRIED = 8
"""Of a layer, those that most tokens reached."""


@dataclass(frozen=True)
class Aim:
    """What smoothing is for.

    Attributes:
        alpha: one for all, or "auto" for a choice at each joint.
        form: of the inputs.
        estimator: of stored ranges.
        strict_static: massive activations are no reason for a range for each token.
    """

    alpha: float | Literal["auto"]
    form: ActivationFormat
    estimator: Estimator
    strict_static: bool = False


@dataclass
class Smoothed:
    """What came of it, by the names of joints.

    Attributes:
        alphas: chosen or given.
        factors: float32 [columns] or [matrices, columns]; only where alpha is not 0.
        statistics: of smoothed inputs, by the names of their weights; for stored ranges alone.
    """

    alphas: dict[str, float] = field(default_factory=dict)
    factors: dict[str, np.ndarray] = field(default_factory=dict)
    statistics: dict[str, InputStatistics] = field(default_factory=dict)

    def choose(self, joint: Joint, alpha: float) -> None:
        self.alphas[joint.name] = alpha
        if alpha:
            self.factors[joint.name] = joint.factors(alpha)

    def add(self, places: Iterable[Joint], found: Found) -> None:
        """What was found in a block."""
        alphas, seen = found
        for joint in places:
            if joint.name in alphas:
                self.choose(joint, alphas[joint.name])
        for statistics in seen:
            self.statistics |= dict.fromkeys(statistics.weights, statistics)


def smooth_by_sample(
    calibration: Calibration,
    model: Model,
    places: Sequence[Joint],
    aim: Aim,
    place: Place,
    work: Path,
    watcher: Watcher,
) -> Smoothed:
    """Walk through the blocks.

    Args:
        work: what is found is kept in the folder of this path (`containers.folder.work_folder`),
            until the caller removes it.

    Raises:
        PlanError: the calibration holds no sample.
        OutputError: no room, or another run works on the same output.
        Also what `Walk` raises.
    """
    tokens, windows = _search_first(calibration.sample.tokens, whole=not aim.form.dynamic)
    done = Smoothed()
    with open_folder(work) as folder, Collector(place.threads or 1) as collector:
        walk = Walk(model, tokens, replace(place, folder=folder))
        size, blocks = tokens.size, len(walk)
        earlier = take_up(folder, _identity(walk, places, aim), walk.states, blocks)
        for found in earlier:
            done.add(places, found)
        walk.begin = len(earlier)
        watcher.begin(blocks * size, walk.begin * size)
        if walk.begin < blocks:
            walk.states.create(ELSEWHERE)
            for block in walk:
                here = [joint for joint in places if joint.block == block.index]
                found = _smooth(block, here, aim, windows, collector)
                walk.states.sync(block.index + 1)
                keep(folder, block.index, found)
                done.add(here, found)
                watcher.advance(size, f"smoothing block {block.index + 1} of {blocks}")
        walk.states.remove()
    return done


def _smooth(
    block: Block, here: Sequence[Joint], aim: Aim, windows: int, collector: Collector
) -> Found:
    """The block's alphas, and what its smoothed inputs are like as it runs."""
    chosen = list(_choices(block, here, aim, windows, collector))
    observe = None
    if not aim.form.dynamic:
        factors = {joint.name: joint.factors(alpha) for joint, alpha in chosen if alpha}
        observe = partial(_see_smoothed, factors, _by_weight(here), collector)
    block.run(observe)
    return {joint.name: alpha for joint, alpha in chosen}, collector.take(_matrices(here))


def _identity(walk: Walk, places: Sequence[Joint], aim: Aim) -> str:
    """A digest of all that is found depends on."""
    digest = sha256(repr((walk.identity, aim)).encode())
    for joint in places:
        digest.update(repr((joint.name, joint.inputs.shape)).encode())
        digest.update(joint.inputs.tobytes())
    return digest.hexdigest()


def _search_first(tokens: np.ndarray, whole: bool) -> tuple[np.ndarray, int]:
    """The windows with some that are spread evenly over them before the others, and how many these
    are; the others only if all are wanted."""
    if not tokens.size:
        raise PlanError("the calibration holds no tokens", "smoothing needs them: calibrate anew")
    count = min(-(-SEARCH_TOKENS // tokens.shape[1]), len(tokens))
    first = np.unique(np.linspace(0, len(tokens) - 1, count).astype(np.int64))
    rest = np.setdiff1d(np.arange(len(tokens)), first)
    order = np.append(first, rest) if whole else first
    return np.ascontiguousarray(tokens[order]), len(first)


def _choices(
    block: Block, here: Sequence[Joint], aim: Aim, windows: int, collector: Collector
) -> Iterator[tuple[Joint, float]]:
    if aim.alpha != "auto":
        yield from ((joint, aim.alpha) for joint in here)
        return
    inputs = _inputs(block, _by_weight(here), windows)
    for joint in here:
        seen = inputs.get(joint.name, {})
        yield joint, best_alpha(_errors(block, joint, seen, aim, collector))


def best_alpha(errors: Sequence[float]) -> float:
    """The one with the least error, the smaller of equals."""
    return ALPHAS[int(np.argmin(errors))]


def _by_weight(here: Sequence[Joint]) -> dict[str, Joint]:
    return {name: joint for joint in here for name in joint.names}


def _matrices(here: Sequence[Joint]) -> dict[str, int]:
    return {
        name: count
        for joint in here
        for name, count in zip(joint.names, joint.matrices, strict=True)
    }


def _inputs(
    block: Block, joints: Mapping[str, Joint], windows: int
) -> dict[str, dict[int, list[Any]]]:
    """What the joints' weights see of some windows: by joint, by matrix."""
    import torch

    seen: dict[str, dict[int, list[Any]]] = {}

    def observe(names: tuple[str, ...], x: Any, matrix: int) -> None:
        joint = joints.get(names[0])
        if joint is not None:
            of_joint = seen.setdefault(joint.name, {})
            of_joint.setdefault(matrix, []).append(x.to(torch.float32, copy=True))

    for start, hidden in block.batches(windows):
        block.forward(hidden, observe, start=start)
    return seen


def _errors(
    block: Block,
    joint: Joint,
    seen: Mapping[int, list[Any]],
    aim: Aim,
    collector: Collector,
) -> list[float]:
    """Of each of ALPHAS; of experts, the mean over tokens of those that saw most of them."""
    import torch

    candidates = [joint.factors(alpha) for alpha in ALPHAS]
    totals = np.zeros(len(ALPHAS))
    most = sorted(seen, key=lambda matrix: (-sum(map(len, seen[matrix])), matrix))
    for matrix in most[:EXPERTS_TRIED]:
        x = torch.cat(seen[matrix])
        whole = (weight_of(block.linears[name], matrix) for name in joint.names)
        weights = [weight[spread(len(weight), ROWS_TRIED)] for weight in whole]
        of_matrix = [s[matrix] if s.ndim > 1 else s for s in candidates]
        choose = None if aim.form.dynamic else partial(_range, aim, collector)
        totals += len(x) * np.array(output_errors(Trial(x, weights), of_matrix, aim.form, choose))
    return [float(total) for total in totals]


def weight_of(line: Linear, matrix: int) -> Any:
    """A weight as float32 [rows, columns]: see `rows_of`."""
    values = rows_of(line, getattr(line.module, line.parameter))
    return (values[matrix] if values.dim() > 2 else values).float()


def _range(aim: Aim, collector: Collector, x: Any) -> Bounds | None:
    """The stored range that an input would have; None if it would have none."""
    collector.observe(("",), x, 0)
    statistics = collector.take({})[0]
    bounds = static_bounds(statistics, 0, aim.form, aim.estimator)
    if not aim.strict_static and losses(statistics, 0, aim.form, bounds).is_massive:
        return None
    return bounds


def _see_smoothed(
    factors: Mapping[str, np.ndarray],
    joints: Mapping[str, Joint],
    collector: Collector,
    names: tuple[str, ...],
    x: Any,
    matrix: int,
) -> None:
    """Observer: the input as it is once it is divided."""
    import torch

    joint = joints.get(names[0])
    if joint is None or joint.name not in factors:
        return
    own = factors[joint.name]
    smooth = torch.from_numpy(own[matrix] if own.ndim > 1 else own)
    collector.observe(names, x.float() / smooth.to(x.device), matrix)
