"""A model all of whose blocks are trained: every weight, or what is added to each at a low rank.

    Pupil      W                 in float32, with two moments of the optimizer: 16 bytes each
    Adapted    W + B A           B [out, rank] and A [rank, in] alone; W as the model runs with it

At the beginning B is zero, so that the model is what it was. Norms and biases are trained
themselves. At the end B A is added to the weight, and nothing of it is left.

Source: E. J. Hu et al., "LoRA: low-rank adaptation of large language models", arXiv 2106.09685.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qconvert.forward.skeleton import put_tensor
from qconvert.forward.weights import read_parameter
from qconvert.run.training.lesson import Lesson
from qconvert.run.training.loop import Trainee

UP, DOWN = " B", " A"
"""Behind a weight's name, what is added to it."""


class Taught(Trainee, Protocol):
    """A `Trainee` that is a whole model.

    Attributes:
        lesson: what it learns.
        memory: about how many bytes it all takes.
    """

    @property
    def lesson(self) -> Lesson: ...
    @property
    def memory(self) -> int: ...

    def made(self) -> Iterator[tuple[str, Any]]:
        """What was trained, float32, by transformers' names."""


@dataclass
class Pupil:
    """A `Taught`: all weights of a model's blocks, and its norms.

    Attributes:
        weights: float32, by transformers' names.
        places: the modules and attributes where they belong.
    """

    lesson: Lesson
    weights: Mapping[str, Any]
    places: Mapping[str, tuple[Any, str]]
    rate: float

    @property
    def tokens(self) -> int:
        return self.lesson.tokens

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self.weights

    @property
    def rates(self) -> dict[str, float]:
        """In the size of each tensor's weights as they were: `_size`."""
        return {name: self.rate * size for name, size in self._sizes.items()}

    def __post_init__(self) -> None:
        self._sizes = {name: _size(tensor) for name, tensor in self.weights.items()}

    @property
    def memory(self) -> int:
        """Weights, gradients and two moments."""
        found: int = self.lesson.memory + 16 * sum(w.numel() for w in self.weights.values())
        return found

    def learn(self, windows: np.ndarray) -> float:
        """See `Trainee`."""
        return self.lesson.learn(self._install, windows)

    def judge(self) -> float:
        """See `Trainee`."""
        return self.lesson.judge(self._install)

    def made(self) -> Iterator[tuple[str, Any]]:
        """See `Taught`."""
        return ((name, tensor.detach()) for name, tensor in self.weights.items())

    def _install(self) -> None:
        import torch

        dtype = getattr(torch, self.lesson.walk.dtype)
        for name, tensor in self.weights.items():
            put_tensor(*self.places[name], tensor.to(dtype))


@dataclass
class Adapted:
    """A `Taught`: what is added to each matrix of a model's blocks, and its norms and biases.

    Attributes:
        vectors: norms and biases, float32, by transformers' names.
        factors: (B, A) by the names of matrices; of experts one for each, [experts, ...].
        places: the modules and attributes where all of them belong.
        sizes: of the weights, as `Pupil.rates` counts.
    """

    lesson: Lesson
    vectors: Mapping[str, Any]
    factors: Mapping[str, tuple[Any, Any]]
    places: Mapping[str, tuple[Any, str]]
    sizes: Mapping[str, float]
    rate: float

    def __post_init__(self) -> None:
        self._own = {name: getattr(*self.places[name]).detach() for name in self.factors}

    @property
    def tokens(self) -> int:
        return self.lesson.tokens

    @property
    def parameters(self) -> dict[str, Any]:
        ups = {f"{name}{UP}": up for name, (up, _) in self.factors.items()}
        downs = {f"{name}{DOWN}": down for name, (_, down) in self.factors.items()}
        return {**self.vectors, **ups, **downs}

    @property
    def rates(self) -> dict[str, float]:
        """A's numbers are about 1 / sqrt(rank) and B's as large as the weight has moved, so that
        a step moves a weight as far as if it were trained itself."""
        ups = {f"{name}{UP}": self.rate * self.sizes[name] for name in self.factors}
        downs = {
            f"{name}{DOWN}": self.rate * down.shape[-2] ** -0.5
            for name, (_, down) in self.factors.items()
        }
        return {name: self.rate * self.sizes[name] for name in self.vectors} | ups | downs

    @property
    def memory(self) -> int:
        """What is added with its gradients and moments, and each weight a second time."""
        trained = sum(parameter.numel() for parameter in self.parameters.values())
        weights = sum(own.nbytes for own in self._own.values())
        found: int = self.lesson.memory + 16 * trained + weights
        return found

    def learn(self, windows: np.ndarray) -> float:
        """See `Trainee`."""
        return self.lesson.learn(self._install, windows)

    def judge(self) -> float:
        """See `Trainee`."""
        return self.lesson.judge(self._install)

    def made(self) -> Iterator[tuple[str, Any]]:
        """See `Taught`."""
        walk = self.lesson.walk
        for name, vector in self.vectors.items():
            yield name, vector.detach()
        for name, (up, down) in self.factors.items():
            shape = tuple(self._own[name].shape)
            weight = read_parameter(walk.source, name, shape, "float32").to(up.device)
            yield name, weight + (up @ down).detach()

    def _install(self) -> None:
        import torch

        dtype = getattr(torch, self.lesson.walk.dtype)
        for name, vector in self.vectors.items():
            put_tensor(*self.places[name], vector.to(dtype))
        for name, (up, down) in self.factors.items():
            added = up.to(dtype) @ down.to(dtype)
            put_tensor(*self.places[name], self._own[name] + added)


def pupil_of(lesson: Lesson, rate: float) -> Pupil:
    """All that is trained of a model: its blocks and the norms behind them."""
    places = _places(lesson)
    weights = {name: _read(lesson, name, places).requires_grad_() for name in places}
    return Pupil(lesson, weights, places, rate)


def adapted_of(lesson: Lesson, rate: float, rank: int, seed: int) -> Adapted:
    """The same at a rank; that of a matrix is its shorter side's at most.

    Args:
        seed: of the draw of A.
    """
    import torch

    draw = torch.Generator().manual_seed(seed)
    places = _places(lesson)
    vectors, factors, sizes = {}, {}, {}
    for name in places:
        weight = _read(lesson, name, places)
        sizes[name] = _size(weight)
        if weight.dim() < 2:
            vectors[name] = weight.requires_grad_()
            continue
        *matrices, rows, columns = weight.shape
        own = min(rank, rows, columns)
        down = torch.randn((*matrices, own, columns), generator=draw) * own**-0.5
        up = torch.zeros((*matrices, rows, own))
        up, down = (one.to(weight.device).requires_grad_() for one in (up, down))
        factors[name] = (up, down)
    return Adapted(lesson, vectors, factors, places, sizes, rate)


def _places(lesson: Lesson) -> dict[str, tuple[Any, str]]:
    """Where the parameters are that are trained, by transformers' names."""
    skeleton = lesson.walk.skeleton
    places: dict[str, tuple[Any, str]] = {}
    for index, block in enumerate(lesson.blocks):
        for inner, module in block.module.named_modules():
            for attribute, _ in module.named_parameters(recurse=False):
                name = ".".join(filter(None, (inner, attribute)))
                places[f"{skeleton.blocks_name}.{index}.{name}"] = (module, attribute)
    for name in skeleton.parameters_beside_blocks():
        outer, _, attribute = name.rpartition(".")
        places[name] = (skeleton.model.get_submodule(outer), attribute)
    return places


def _read(lesson: Lesson, name: str, places: Mapping[str, tuple[Any, str]]) -> Any:
    shape = tuple(getattr(*places[name]).shape)
    walk = lesson.walk
    return read_parameter(walk.source, name, shape, "float32").to(walk.device)


def _size(tensor: Any) -> float:
    """The root of the mean square of some weights; of none that differ from 0, a usual one."""
    return float(tensor.detach().square().mean().sqrt()) or 0.02
