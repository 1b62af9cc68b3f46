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
from qconvert.errors import WeightError
from qconvert.forward.block import Block
from qconvert.forward.head import Head
from qconvert.forward.linears import find_vectors
from qconvert.forward.skeleton import put_tensor
from qconvert.forward.walk import Walk
from qconvert.plan.algorithms import order_of
from qconvert.plan.types import TensorPlan
from qconvert.run.training.loss import LOGITS, derive
from qconvert.run.training.teacher import Teacher

PIECE = {"cpu": 512, "cuda": 8192, "mps": 4096}
"""Tokens whose activations are in memory at a time; at least one window."""

LIBRARIES = 700_000_000
"""Bytes that torch and transformers take by themselves."""

KEPT, KEPT_INNER = 12, 4
"""Numbers of a token that a block keeps to be derived: so many times its width, and the inner."""


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
        walk: of the quantized model, its windows for learning first; `embed` is done.
        shown: how many those are.
        matrices: by the GGUF name of the weight.
        norms: by GGUF name.
        teacher: what it is to say, of the same windows.
        rate: the highest; see `qconvert.algorithms.tune.FLIP` for what it is a part of.
    """

    walk: Walk
    shown: int
    matrices: Mapping[str, Sequence[Matrix]]
    norms: Mapping[str, Norm]
    teacher: Teacher
    rate: float

    def __post_init__(self) -> None:
        self._blocks = [self.walk.load(index) for index in range(len(self.walk))]
        self._head = Head(self.walk.source, self.walk.device, self.walk.dtype)
        self._vectors = self._find_norms()

    @property
    def tokens(self) -> int:
        return int(self.walk.tokens.shape[1])

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

    def learn(self, windows: np.ndarray) -> float:
        """See `Trainee`."""
        step, total = self._piece, 0.0
        share = 1 / (len(windows) * self.tokens)
        for start in range(0, len(windows), step):
            self._install(is_derived=True)
            total += self._derive(windows[start : start + step], share, is_derived=True)
        return total * share

    def judge(self) -> float:
        """See `Trainee`.

        Raises:
            WeightError: it is no number.
        """
        import torch

        total, step = 0.0, self._piece
        unseen = np.arange(self.shown, len(self.walk.tokens))
        with torch.no_grad():
            self._install(is_derived=False)
            for start in range(0, len(unseen), step):
                total += self._derive(unseen[start : start + step], 1.0, is_derived=False)
        found = total / (len(unseen) * self.tokens)
        if not np.isfinite(found):
            raise WeightError("the model's predictions are NaN or infinite")
        return found

    @property
    def every_matrix(self) -> Iterator[Matrix]:
        """All that are trained."""
        return (one for of in self.matrices.values() for one in of)

    @property
    def memory(self) -> int:
        """About how many bytes it all takes."""
        weights = sum(one.tensor.map.elements for one in self.every_matrix)
        trained = sum(parameter.numel() for parameter in self.parameters.values())
        config = self.walk.skeleton.config
        width = int(config.hidden_size)
        inner = int(getattr(config, "intermediate_size", 0) or 4 * width)
        of_token = len(self.walk) * (KEPT * width + KEPT_INNER * inner)
        activations = 2 * max(PIECE[self.walk.device], self.tokens) * of_token
        heads = 2 * 2 * self._head.rows * width
        found: int = LIBRARIES + 5 * weights + 16 * trained + activations + heads + 24 * LOGITS
        return found

    @property
    def _piece(self) -> int:
        return max(PIECE[self.walk.device] // self.tokens, 1)

    def _derive(self, windows: np.ndarray, share: float, *, is_derived: bool) -> float:
        """The divergence of some windows, summed over their tokens."""
        import torch

        states = self.walk.states
        hidden = torch.cat([states.read(0, int(n), int(n) + 1) for n in windows])
        hidden = hidden.to(self.walk.device)
        for block in self._blocks:
            hidden = block.forward(hidden, gradients=is_derived)
        last = self.walk.behind(hidden, 0, gradients=is_derived)
        wanted = self.teacher.wanted(windows).flatten(0, 1)
        return derive(self._head, last.flatten(0, 1), self.teacher.head, wanted, share)

    def _install(self, *, is_derived: bool) -> None:
        """Have the model compute with what is stored by now."""
        import torch

        dtype, device = getattr(torch, self.walk.dtype), self.walk.device
        with torch.set_grad_enabled(is_derived):
            for block in self._blocks:
                for name in block.linears.keys() & self.matrices.keys():
                    self._install_weight(block, name, dtype, device)
            for name, (module, attribute, own) in self._vectors.items():
                put_tensor(module, attribute, self.norms[name].change(own))

    def _install_weight(self, block: Block, name: str, dtype: Any, device: str) -> None:
        import torch

        of = [one.rows(dtype, device) for one in self.matrices[name]]
        block.install(name, of[0] if len(of) == 1 else torch.stack(of))

    def _find_norms(self) -> dict[str, tuple[Any, str, Any]]:
        """The modules and attributes that hold norms, and what these are as they were stored."""
        skeleton, source = self.walk.skeleton, self.walk.source
        found = find_vectors(source, "", skeleton.model)
        for index, block in enumerate(self._blocks):
            prefix = f"{skeleton.blocks_name}.{index}."
            found |= find_vectors(source, prefix, block.module)
        return {
            name: (module, attribute, getattr(module, attribute).detach())
            for name, (module, attribute) in found.items()
            if name in self.norms
        }
