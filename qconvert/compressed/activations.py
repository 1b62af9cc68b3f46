"""What a calibration does for the inputs of linear layers: smoothing, and stored ranges.

    inputs seen -> (smoothing by channel) -> a range for the tensor, or one for each token

Everything follows from the calibration's statistics, but for two things that take the model to
work on the sample once more, block by block: the choice of each layer's own strength of smoothing,
and stored ranges of inputs that have been smoothed, whose histograms nobody has seen yet.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from qconvert.architectures.folding import Fold, folds
from qconvert.calibration.types import Calibration, InputStatistics
from qconvert.compressed.smoothing import Smoothed, smooth_model
from qconvert.compressed.source import Source
from qconvert.compressed.types import Range, Smoothing
from qconvert.errors import PlanError
from qconvert.forward.walk import Place
from qconvert.formats.compressed import ActivationFormat, Estimator
from qconvert.quantizers.activation_ranges import static_bounds
from qconvert.quantizers.massive import is_massive, losses
from qconvert.work import Watcher

Smooth = float | Literal["auto"] | None


@dataclass(frozen=True)
class Activations:
    """What is done to the inputs of a model's linear layers. Weights go by GGUF names.

    Attributes:
        smoothing: of weights, and of norms and biases, that are multiplied with something.
        ranges: of the weights whose input has a stored range.
        dynamic: of those that would have one, and must not: why not.
        alphas: how strongly the input of each weight is smoothed.
        notices: what the user should know.
    """

    smoothing: Mapping[str, Smoothing] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)
    dynamic: Mapping[str, str] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
