"""Some windows of a sample through a model in memory, up to what its teacher says of them.

Who is trained puts his weights into the blocks before (`install`); how far the model is from the
teacher then is derived back to them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from qconvert.errors import WeightError
from qconvert.forward.block import Block
from qconvert.forward.head import Head
from qconvert.forward.linears import find_vectors
from qconvert.forward.skeleton import put_tensor
from qconvert.forward.walk import Walk
from qconvert.run.training.loss import (
    DIVERGENCE,
    LOGITS,
    NONE,
    Losses,
    More,
    apart,
    derive,
    distance,
)
from qconvert.run.training.teacher import Teacher

PIECE = {"cpu": 512, "cuda": 8192, "mps": 4096}
"""Tokens whose activations are in memory at a time; at least one window."""

LIBRARIES = 1_000_000_000
"""Bytes that torch and transformers take by themselves."""

KEPT, KEPT_INNER = 24, 8
"""Numbers of bfloat16 for each token that a block keeps to be derived: so many times its width, and
the inner. Norms keep float32."""

Install = Callable[[], None]


@dataclass
class Lesson:
    """A model, its sample, and what it is to learn.

    Attributes:
        walk: of the model that is trained, its windows for learning first.
        shown: how many those are.
        teacher: what it is to say, of the same windows.
        losses: what counts beside how far it is from that.
    """

    walk: Walk
    shown: int
    teacher: Teacher
    losses: Losses = DIVERGENCE
    blocks: list[Block] = field(init=False)

    def __post_init__(self) -> None:
        self.walk.embed()
        self.blocks = [self.walk.load(index) for index in range(len(self.walk))]

    @cached_property
    def head(self) -> Head | None:
        """The output projection; None of an encoder."""
        walk = self.walk
        return Head(walk.source, walk.device, walk.dtype) if walk.skeleton.head else None

    @property
    def tokens(self) -> int:
        """Of a window."""
        return int(self.walk.tokens.shape[1])

    @property
    def vectors(self) -> dict[str, tuple[Any, str]]:
        """The parameters of one dimension in blocks and behind the last one, by GGUF name."""
        skeleton, source = self.walk.skeleton, self.walk.source
        found = find_vectors(source, "", skeleton.model)
        for index, block in enumerate(self.blocks):
            found |= find_vectors(source, f"{skeleton.blocks_name}.{index}.", block.module)
        return found

    @property
    def memory(self) -> int:
        """About how many bytes activations, logits and libraries take, and the model as it is with
        what it gathers of gradients."""
        config = self.walk.skeleton.config
        width = int(config.hidden_size)
        inner = int(getattr(config, "intermediate_size", 0) or 4 * width)
        of_token = len(self.walk) * (KEPT * width + KEPT_INNER * inner)
        activations = 2 * max(PIECE[self.walk.device], self.tokens) * of_token
        weights = sum(p.numel() for block in self.blocks for p in block.module.parameters())
        found: int = LIBRARIES + activations + 4 * weights
        if self.head is not None:
            found += 4 * self.head.rows * width + 24 * LOGITS
        return found

    def learn(self, install: Install, windows: np.ndarray) -> float:
        """The mean loss of some windows; what it is derived by is added to what is trained."""
        step, total = self._piece, 0.0
        share = 1 / (len(windows) * self.tokens)
        install()
        held = self._held() if len(windows) > step else []
        for start in range(0, len(windows), step):
            total += self._through(windows[start : start + step], share, is_derived=True)
        _derive_made(held)
        return total * share

    def _held(self) -> list[tuple[Any, Any]]:
        """What was made to be derived, and what stands in its place now and gathers the gradients
        of several pieces: to make weights anew for each of them, and derive what they are made of,
        would take a quarter of the time."""
        import torch

        found: list[tuple[Any, Any]] = []
        outer = [self.walk.skeleton.model, *(block.module for block in self.blocks)]
        modules = {id(inner): inner for module in outer for inner in module.modules()}
        for module in modules.values():
            for name, made in list(vars(module).items()):
                if isinstance(made, torch.Tensor) and made.requires_grad:
                    put_tensor(module, name, made.detach().requires_grad_())
                    found.append((made, getattr(module, name)))
        return found

    def judge(self, install: Install) -> float:
        """The mean loss of the windows that are not shown.

        Raises:
            WeightError: it is no number.
        """
        import torch

        total, step = 0.0, self._piece
        unseen = np.arange(self.shown, len(self.walk.tokens))
        with torch.no_grad():
            install()
            for start in range(0, len(unseen), step):
                total += self._through(unseen[start : start + step], 1.0, is_derived=False)
        found = total / (len(unseen) * self.tokens)
        if not np.isfinite(found):
            raise WeightError("the model's predictions are NaN or infinite")
        return found

    @property
    def _piece(self) -> int:
        return max(PIECE[self.walk.device] // self.tokens, 1)

    def _through(self, windows: np.ndarray, share: float, *, is_derived: bool) -> float:
        """The loss of some windows, summed over their tokens."""
        import torch

        states = self.walk.states
        hidden = torch.cat([states.read(0, int(n), int(n) + 1) for n in windows])
        hidden = hidden.to(self.walk.device)
        beside: Any = None
        for index, block in enumerate(self.blocks):
            hidden = block.forward(hidden, gradients=is_derived)
            if is_derived and self.losses.hidden and index < len(self.teacher.blocks):
                # Hidden states of blocks that match are what a student learns from, and not what
                # it is judged by.
                found = distance(hidden, self.teacher.hidden(windows, index))
                weight = self.losses.hidden / len(self.blocks)
                beside = weight * found if beside is None else beside + weight * found
        last = self.walk.behind(hidden, 0, gradients=is_derived)
        wanted = self.teacher.wanted(windows)
        if self.head is None or self.teacher.head is None:
            with torch.set_grad_enabled(is_derived):
                loss = apart(last, wanted)
                loss = loss if beside is None else loss + beside
            if is_derived:
                (loss * share).backward()
            return float(loss.detach())
        flat = last.flatten(0, 1), wanted.flatten(0, 1)
        follows = self._next(windows) if is_derived and self.losses.next_token else None
        more = More(follows, self.losses.next_token, beside)
        return derive(self.head, flat[0], self.teacher.head, flat[1], share, more)

    def _next(self, windows: np.ndarray) -> Any:
        """The token that follows each, int64 [tokens]; NONE behind the last of a window."""
        import torch

        tokens = torch.from_numpy(self.walk.tokens[windows].astype(np.int64))
        behind = torch.full((len(tokens), 1), NONE)
        return torch.cat((tokens[:, 1:], behind), dim=1).flatten().to(self.walk.device)


def _derive_made(held: list[tuple[Any, Any]]) -> None:
    """Lead gradients that were gathered back to what the weights were made of."""
    import torch

    reached = [(made, gathered.grad) for made, gathered in held if gathered.grad is not None]
    if reached:
        torch.autograd.backward([made for made, _ in reached], [grad for _, grad in reached])
