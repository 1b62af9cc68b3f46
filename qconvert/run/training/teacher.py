"""What the teacher knows of each token of a sample: computed once, and kept.

Kept is what goes into its output projection, and not what comes out: a row of the hidden width for
each token in place of one of the vocabulary, and exact. The projection makes the distribution of it
when that is asked for, at the price of one product.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qconvert.containers.store import Store
from qconvert.forward.head import Head
from qconvert.forward.states import States
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import Model

DONE = "teacher"
"""What the store has when all is computed."""


@dataclass(frozen=True)
class Teacher:
    """What a student is to say.

    Attributes:
        head: the output projection; None of an encoder.
        states: a file of what goes into it, of every window.
        device: where that is wanted.
        blocks: the numbers of the blocks whose outputs are kept too, by those of the student's.
    """

    head: Head | None
    states: States
    device: str
    blocks: tuple[int, ...] = ()

    def wanted(self, windows: np.ndarray) -> Any:
        """What goes into the projection for some windows, [windows, window, hidden]."""
        return self._read(0, windows)

    def hidden(self, windows: np.ndarray, index: int) -> Any:
        """What leaves the block that matches the student's block `index`, likewise."""
        return self._read(1 + index, windows)

    def _read(self, file: int, windows: np.ndarray) -> Any:
        import torch

        found = [self.states.read(file, int(one), int(one) + 1) for one in windows]
        return torch.cat(found).to(self.device)


def teach(
    model: Model,
    tokens: np.ndarray,
    place: Place,
    store: Store,
    advance: Callable[[int], None],
    blocks: tuple[int, ...] = (),
) -> Teacher:
    """Run the teacher, one block in memory, or find what an earlier run has kept.

    Args:
        tokens: int [windows, window].
        place: with the store's folder.
        advance: called with the tokens of each block.
        blocks: whose outputs are kept too, for `Teacher.hidden`; ascending.

    Raises:
        UnsupportedError: transformers or this program cannot run it.
        WeightError: NaN or infinity comes out of a block.
        OutputError: no room.
    """
    walk = Walk(model, tokens, replace(place, states="walk"))
    walk.check_alone("learnt from")
    head = Head(walk.source, walk.device, walk.dtype) if walk.skeleton.head else None
    states = replace(walk.states, name="teacher", files=1 + len(blocks))
    teacher = Teacher(head, states, walk.device, blocks)
    if DONE in store and states.exist():
        return teacher
    states.create()
    for block in walk:
        block.run()
        for file in (1 + k for k, number in enumerate(blocks) if number == block.index):
            for start, stop in walk.batches():
                states.write(file, start, walk.states.read(block.index + 1, start, stop))
            states.sync(file)
        advance(tokens.size)
    for (start, _), hidden in zip(walk.batches(), walk.last_hidden(), strict=True):
        states.write(0, start, hidden)
    states.sync(0)
    walk.states.remove()
    store.put(DONE, {})
    return teacher
