"""What a calibration does for the inputs of linear layers: smoothing, and stored ranges.

    inputs seen -> (smoothing by channel) -> a range for the tensor, or one for each token

Everything follows from the calibration's statistics, but for two things that take the model to
work on the sample once more, block by block: the choice of each layer's own strength of smoothing,
and stored ranges of inputs that have been smoothed, whose histograms nobody has seen yet.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from qconvert.algorithms.activation_ranges import static_bounds
from qconvert.algorithms.massive import Losses, losses
from qconvert.algorithms.smooth import is_alpha
from qconvert.calibration.types import Calibration, InputStatistics
from qconvert.errors import UsageError
from qconvert.formats.safetensors.types import ActivationFormat, Estimator
from qconvert.forward.walk import Place
from qconvert.machine.watcher import Watcher
from qconvert.model.open import Model
from qconvert.plan.statistics import Range, Smoothing
from qconvert.run.activations.joints import Joint, fold_in, joints
from qconvert.run.activations.search import Aim, Smoothed, smooth_by_sample

Smooth = float | Literal["auto"] | None


@dataclass(frozen=True)
class Activations:
    """What is done to the inputs of a model's linear layers. Weights go by GGUF names.

    Attributes:
        smoothing: what weights, norms and biases are multiplied with.
        ranges: stored ranges of inputs; None where an input has massive activations, and gets a
            range for each token. Empty where no range is stored.
        massive: what one range would have lost of these inputs; with `strict_static`, loses.
        alphas: how strongly the input of each weight is smoothed.
        notices: what the user should know.
    """

    smoothing: Mapping[str, Smoothing] = field(default_factory=dict)
    ranges: Mapping[str, Range | None] = field(default_factory=dict)
    massive: Mapping[str, Losses] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def prepare_activations(
    model: Model,
    calibration: Calibration,
    form: ActivationFormat,
    *,
    smooth: Smooth = None,
    estimator: Estimator,
    strict_static: bool = False,
    place: Place,
    work: Path,
    watcher: Watcher,
) -> Activations:
    """Everything about the inputs of one output.

    Args:
        form: of inputs. Where it is dynamic, no ranges are made.
        smooth: alpha from 0 to 1, "auto" for each layer's own, None for none.
        estimator: of stored ranges.
        strict_static: store ranges where activations are massive, too.
        place: where the model works, if it has to: with "auto", and to store ranges of smoothed
            inputs.
        work: what it finds is kept in the folder of this path, for a run that goes on.

    Raises:
        UsageError: alpha is out of bounds.
        PlanError: nothing can be smoothed, or the calibration lacks what is needed.
        Also what `qconvert.forward.walk.Walk` raises, if the model has to work.
    """
    if isinstance(smooth, float) and not is_alpha(smooth):
        raise UsageError(f"--smooth {smooth:g} is not from 0 to 1")
    if smooth and form.type != "int":
        raise UsageError("--smooth is for int8 activations, w8a8", "floats bear outliers as it is")
    aim = Aim(smooth or 0.0, form, estimator, strict_static)
    places = joints(model, calibration) if smooth else ()
    smoothed = _smoothed(model, calibration, places, aim, place, work, watcher)
    names = {weight.gguf for weight in model.weights}
    smoothing = fold_in(smoothed.factors, places, names)
    alphas = {name: smoothed.alphas[joint.name] for joint in places for name in joint.names}
    notices = _described(list(smoothed.alphas.values()))
    if form.dynamic:
        return Activations(smoothing, alphas=alphas, notices=notices)
    inputs = {**calibration.by_weight, **smoothed.statistics}
    wanted = [weight.gguf for weight in model.weights if weight.quantizable]
    ranges, massive = _ranges({name: inputs[name] for name in wanted if name in inputs}, aim)
    if strict_static:
        notices = (*notices, *(_loss_notice(name, loss) for name, loss in massive.items()))
    return Activations(smoothing, ranges, massive, alphas, notices)


def _smoothed(
    model: Model,
    calibration: Calibration,
    places: tuple[Joint, ...],
    aim: Aim,
    place: Place,
    work: Path,
    watcher: Watcher,
) -> Smoothed:
    if aim.alpha == "auto" or (places and not aim.form.dynamic):
        return smooth_by_sample(calibration, model, places, aim, place, work, watcher)
    done = Smoothed()
    for joint in places:
        done.choose(joint, aim.alpha)
    return done


def _ranges(
    inputs: Mapping[str, InputStatistics], aim: Aim
) -> tuple[dict[str, Range | None], dict[str, Losses]]:
    """The stored range of every weight's input, and what would be lost by those that are None."""
    made: dict[int, tuple[Range, Losses]] = {}
    for statistics in inputs.values():
        if id(statistics) not in made:
            made[id(statistics)] = _range(statistics, aim)
    ranges: dict[str, Range | None] = {}
    massive: dict[str, Losses] = {}
    for name, statistics in inputs.items():
        range_, loss = made[id(statistics)]
        if loss.is_massive:
            massive[name] = loss
        ranges[name] = None if loss.is_massive and not aim.strict_static else range_
    return ranges, massive


def _range(statistics: InputStatistics, aim: Aim) -> tuple[Range, Losses]:
    """The range of each matrix, and what the one loses that loses most."""
    every = range(statistics.matrices)
    found = [static_bounds(statistics, matrix, aim.form, aim.estimator) for matrix in every]
    lost = [losses(statistics, matrix, aim.form, found[matrix]) for matrix in every]
    worst = max(lost, key=lambda loss: (loss.is_massive, loss.static))
    zero = None
    if not aim.form.symmetric:
        zero = np.array([bounds.zero_point for bounds in found], np.int8)
    return Range(np.array([bounds.scale for bounds in found], np.float32), zero), worst


def _described(alphas: list[float]) -> tuple[str, ...]:
    """How strongly a model is smoothed, in a line."""
    if not alphas:
        return ()
    used = sorted(alpha for alpha in alphas if alpha)
    if not used:
        return ("no input is smoothed: it would not help any",)
    strength = f"alpha {used[0]:g}"
    if used[-1] > used[0]:
        strength += f" to {used[-1]:g}, {used[len(used) // 2]:g} at the median"
    return (f"{len(used)} of {len(alphas)} inputs are smoothed, by {strength}",)


def _loss_notice(name: str, loss: Losses) -> str:
    return (
        f"{name}: massive activations; its stored range loses {loss.static:.1%} of the input, a "
        f"range for each token {loss.token:.1%}"
    )
