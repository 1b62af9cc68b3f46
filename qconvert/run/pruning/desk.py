"""What choosing takes: the model, its calibration, and where to measure."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from qconvert.calibration.types import Calibration
from qconvert.containers.store import Store
from qconvert.forward.skeleton import build_skeleton
from qconvert.forward.walk import Place, Walk
from qconvert.forward.weights import find_parameters
from qconvert.machine.watcher import Watcher
from qconvert.model.open import Model
from qconvert.plan.pruning.config import IN_LAYERS
from qconvert.plan.pruning.cut import Shape, shape_of
from qconvert.run.pruning.judge import Judge


@dataclass(frozen=True)
class Desk:
    """What choosing takes.

    Attributes:
        every: int [windows, window], the calibration's tokens to choose by.
        shown: some of them, to try cuts on.
        unseen: others, to tell what it cost.
        place: where the model works.
        store: keeps what is measured.
    """

    model: Model
    calibration: Calibration
    every: np.ndarray
    shown: np.ndarray
    unseen: np.ndarray
    place: Place
    store: Store
    watcher: Watcher

    @cached_property
    def shape(self) -> Shape:
        return shape_of(self.model)

    @cached_property
    def judge(self) -> Judge:
        """Of the tokens to try cuts on. The model runs when it is asked for."""
        return Judge(self.model, self.shown, self.place)

    def walk(self) -> Walk:
        """Over all tokens to choose by."""
        walk = Walk(self.model, self.every, self.place)
        walk.check_alone("pruned")
        return walk

    @cached_property
    def of_layers(self) -> dict[str, list[Any]]:
        """What transformers derives of the configuration for each layer."""
        config = build_skeleton(find_parameters(self.model)).config
        found = {name: getattr(config, name, None) for name in IN_LAYERS}
        return {
            name: list(values)
            for name, values in found.items()
            if isinstance(values, list | tuple) and len(values) == self.shape.layers
        }
