"""A quantized model that is trained as it will be stored.

What it computes with is made of what a file holds (`qconvert.algorithms.tune`): in each step all
weights are made anew from scales and codes as they can be stored, and what the loss is derived by
them goes back into scales and codes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qconvert.algorithms.tune import FLIP, Tuned
from qconvert.forward.skeleton import put_tensor
from qconvert.plan.algorithms import order_of
from qconvert.plan.types import TensorPlan
from qconvert.run.training.lesson import Lesson


@dataclass(frozen=True)
class Matrix:
    """A planned tensor that is trained, all of a weight's rows or the matrix of an expert."""

    tensor: TensorPlan
    first: int
    tuned: Tuned

    def rows(self, dtype: Any, device: str) -> Any:
        """In transformers' order, in the shape that its map says."""
        import torch

        x, order = self.tuned.weights(dtype, device), order_of(self.tensor)
        if order:
            places = torch.from_numpy(np.argsort(order)).to(x.device)
            x = x.view(-1, len(order), x.shape[-1])[:, places]
        return x.reshape(self.tensor.map.shape)


@dataclass(frozen=True)
class Norm:
    """The gains of a norm, which are trained in parts of themselves.

    Attributes:
        tensor: as it is planned, of one dimension.
        base: float32, as it was stored.
        moved: torch float32, by how much of itself each is larger.
    """

    tensor: TensorPlan
    base: np.ndarray
    moved: Any

    def change(self, own: Any) -> Any:
        """`own`, transformers' gains, with what is learnt."""
        import torch

        change = torch.tensor(self.base).to(self.moved.device) * self.moved
        order = self.tensor.map.order
        if order:
            places = torch.from_numpy(np.argsort(order)).to(change.device)
            change = change.view(-1, len(order))[:, places].reshape(-1)
        return (own.float() + change).to(own.dtype)

    def stored(self) -> np.ndarray:
        """float32."""
        moved: np.ndarray = self.moved.detach().float().cpu().numpy()
        made: np.ndarray = self.base * (1 + moved)
        return made


@dataclass
class Student:
    """A `Trainee`.

    Attributes:
        lesson: of the quantized model.
        matrices: by the GGUF name of the weight.
        norms: by GGUF name.
        rate: the highest; see `qconvert.algorithms.tune.FLIP` for what it is a part of.
    """

    lesson: Lesson
    matrices: Mapping[str, Sequence[Matrix]]
    norms: Mapping[str, Norm]
    rate: float

    def __post_init__(self) -> None:
        # Norms as they were stored, and where they are.
        self._vectors = {
            name: (module, attribute, getattr(module, attribute).detach())
            for name, (module, attribute) in self.lesson.vectors.items()
            if name in self.norms
        }

    @property
    def tokens(self) -> int:
        return self.lesson.tokens

    @property
    def every_matrix(self) -> Iterator[Matrix]:
        """All that are trained."""
        return (one for of in self.matrices.values() for one in of)

    @property
    def parameters(self) -> dict[str, Any]:
        found = {
            f"{one.tensor.name} {name}": parameter
            for one in self.every_matrix
            for name, parameter in one.tuned.parameters()
        }
        return found | {name: norm.moved for name, norm in self.norms.items()}

    @property
    def rates(self) -> dict[str, float]:
        """A code's place counts in codes, and not in parts of a unit."""
        places = 0.5 / FLIP
        return {n: self.rate * (places if n.endswith(" place") else 1) for n in self.parameters}

    @property
    def memory(self) -> int:
        """About how many bytes it all takes."""
        weights = sum(one.tensor.map.elements for one in self.every_matrix)
        trained = sum(parameter.numel() for parameter in self.parameters.values())
        found: int = self.lesson.memory + 3 * weights + 16 * trained
        return found

    def learn(self, windows: np.ndarray) -> float:
        """See `Trainee`."""
        return self.lesson.learn(self._install, windows)

    def judge(self) -> float:
        """See `Trainee`."""
        return self.lesson.judge(self._install)

    def _install(self) -> None:
        """Have the model compute with what is stored by now."""
        import torch

        walk = self.lesson.walk
        dtype, device = getattr(torch, walk.dtype), walk.device
        for block in self.lesson.blocks:
            for line in block.linears.values():  # of fused weights the others' are of an old step
                own = getattr(line.module, line.parameter)
                put_tensor(line.module, line.parameter, own.detach())
            for name in block.linears.keys() & self.matrices.keys():
                of = [one.rows(dtype, device) for one in self.matrices[name]]
                block.install(name, of[0] if len(of) == 1 else torch.stack(of))
        for name, (module, attribute, own) in self._vectors.items():
            put_tensor(module, attribute, self.norms[name].change(own))
