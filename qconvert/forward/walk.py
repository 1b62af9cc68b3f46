"""The model at work, one block in memory at a time.

transformers' own model runs with stubs in place of its blocks, which tell what it passes to each
(masks, positions) and stand for the blocks before and after. So every family's own code computes
everything, and memory holds one block, a batch and its activations.

    walk = Walk(model, tokens, Place(folder))      # tokens: int [windows, window]
    for block in walk:                                  # weights are loaded here
        block.linears                                   # GGUF name of a weight -> Linear
        block.run(observe)                              # all windows through it, to the next one
    walk.finish(observe)                                # the output projection's input

`observe(weights, x, matrix)` is called before each product: with the GGUF names of the weights
that are multiplied with x (those of q, k and v together), x as [tokens, columns] on the device in
the run's type, and the number of the matrix (the expert; else 0). x may not be kept or changed.
Where the walk is given `inputs`, `inputs(weights, x)` is what is multiplied in place of x.

For a search within a block, before `run`:

    for start, hidden in block.batches():               # hidden: [windows, window, hidden]
        out = block.forward(hidden)                     # any number of times, with any weights
    block.forward(hidden, observe)                      # the same, observed

`block.install(name, rows)` puts other rows in the place of a weight's, which counts for what
follows; `block.module` is transformers' own. `block.forward(hidden, gradients=True)` can be derived
by installed rows.
Where `run` is not called, the next block is reached by running without an observer. `batches`
gives the same windows each time, all of them or `windows=` the first few.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from qconvert import __version__
from qconvert.checkpoint.open import check_unchanged
from qconvert.errors import PlanError
from qconvert.forward.absorbed import find_absorbed
from qconvert.forward.ahead import Ahead, advise
from qconvert.forward.block import Block, Observe
from qconvert.forward.copies import copies_of
from qconvert.forward.device import choose_device, choose_dtype
from qconvert.forward.experts import Inputs
from qconvert.forward.linears import Linear, find_linears
from qconvert.forward.memory import keep_freed_memory
from qconvert.forward.passed import check_alone, find_passed
from qconvert.forward.skeleton import Skeleton, build_skeleton, set_parameter
from qconvert.forward.states import States, find_near
from qconvert.forward.stubs import Stubs
from qconvert.forward.weights import Parameters, find_parameters, read_parameter, read_rows_of
from qconvert.model.names import bare_name
from qconvert.model.open import Model

__all__ = ["Block", "Linear", "Observe", "Place", "Walk"]

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384, "mps": 8192}
"""Tokens of a batch; at least one window. On the CPU more would not stay in the caches."""


@dataclass(frozen=True)
class Place:
    """Where and how to compute.

    Attributes:
        folder: for the hidden states, two files.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "auto", "bf16", "f32" or "f16".
        threads: of torch on the CPU; None leaves it as it is.
        batch: windows at once; None chooses.
        states: the name of the files.
        kept: the hidden states of all blocks stay, in a file for each.
    """

    folder: Path
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    batch: int | None = None
    states: str = "states"
    kept: bool = False


class Walk:
    """A model and a sample on their way through the blocks. See the module's text.

    Args:
        model: what works.
        tokens: int [windows, window].
        place: where and how.
        begin: the first block to visit; the hidden states that go into it are in the folder.
        inputs: changes the inputs of products in blocks, as a runtime does that rounds them.
        cut: no batch has windows from before this one and from it on.

    Raises:
        UnsupportedError: a family that transformers or this program does not know.
        PlanError: weights are missing, or the windows are longer than the model's positions.
        UsageError: the device or type cannot be had.
        CheckpointError, from the iteration: a file has changed since the model was opened.
    """

    def __init__(
        self,
        model: Model,
        tokens: np.ndarray,
        place: Place,
        begin: int = 0,
        inputs: Inputs | None = None,
        cut: int = 0,
    ) -> None:
        import torch

        self.device = choose_device(place.device)
        self.dtype = choose_dtype(place.dtype, self.device)
        if place.threads and self.device == "cpu":
            torch.set_num_threads(place.threads)
        keep_freed_memory()
        self.model = model
        self.source: Parameters = find_parameters(model)
        self.skeleton: Skeleton = build_skeleton(self.source)
        self.copies = copies_of(self.skeleton.config)
        self.tokens = tokens
        self.begin = begin
        self.cut = cut
        self.inputs = inputs
        self.batch = place.batch or max(1, BATCH_TOKENS[self.device] // tokens.shape[1])
        shape = (*tokens.shape, self._width())
        files = len(self.skeleton.blocks) + 1 if place.kept else 2
        own = States(place.folder, shape, self.dtype, place.states, files)
        if not place.kept:
            own = replace(own, near=find_near(self.device, files * own.nbytes))
        self.passed = find_passed(self.skeleton.config, own)
        self.states = replace(own, beside=self.passed.files)
        self._check_positions()
        rest = self.skeleton.parameters_beside_blocks()
        first = model.family.first_position(model.settings)
        self._stubs = Stubs(self.skeleton, first)
        self._fill_rest(rest)
        self._arguments: dict[int, list[tuple[tuple, dict]]] = {}
        self._ahead = Ahead()

    def __len__(self) -> int:
        return len(self.skeleton.blocks)

    def __iter__(self) -> "Iterator[Block]":
        if self.begin:
            self.states.create()
        else:
            self.embed()
        for index in range(self.begin, len(self)):
            block = self.load(index)
            yield block
            if not block.is_done:
                block.run()
            block.unload()

    @cached_property
    def identity(self) -> str:
        """A digest of all that the hidden states depend on."""
        import torch
        import transformers

        digest = sha256(np.ascontiguousarray(self.tokens, "<i4").tobytes())
        about = (
            self.model.fingerprint,
            [(path.name, *state) for path, state in self.model.checkpoint.states.items()],
            self.tokens.shape,
            self.dtype,
            self.device,
            self.batch,
            __version__,
            torch.__version__,
            transformers.__version__,
        )
        digest.update(repr(about).encode())
        return digest.hexdigest()

    def check_alone(self, doing: str) -> None:
        """Refuse a model whose blocks pass more than hidden states.

        Args:
            doing: what cannot be done with it, "tuned".

        Raises:
            UnsupportedError: it is one.
        """
        check_alone(self.skeleton.config, self.model.checkpoint.source, doing)

    @property
    def output_name(self) -> str:
        """The GGUF name of the output projection's weight; empty where there is none."""
        return self.model.output if self.skeleton.head else ""

    def finish(self, observe: Observe) -> None:
        """Show the inputs of products outside the blocks to the observer: of the output projection,
        where there is one, and of what makes inputs for each block."""
        hooks = [
            module.register_forward_pre_hook(partial(_show, observe, name))
            for name, module in self._outside().items()
        ]
        for hidden in self.last_hidden():
            if self.output_name:
                observe((self.output_name,), hidden.reshape(-1, hidden.shape[-1]), 0)
        for hook in hooks:
            hook.remove()

    def last_hidden(self) -> Iterator[Any]:
        """What comes out behind the last block and norm: [windows, window, hidden], by batch."""
        for start, stop in self.batches():
            yield self.behind(self.states.read(len(self), start, stop).to(self.device), start)

    def behind(self, hidden: Any, start: int, *, gradients: bool = False) -> Any:
        """What the last norm makes of what comes out of the last block, [windows, window, hidden]
        from the window `start` on."""
        ids = self.numbers(start, start + len(hidden))
        return self._stubs.run(ids, last=hidden, gradients=gradients)

    def batches(self) -> Iterator[tuple[int, int]]:
        """First and last + 1 of the windows of each batch."""
        for first, last in ((0, self.cut), (self.cut, len(self.tokens))):
            for start in range(first, last, self.batch):
                yield start, min(start + self.batch, last)

    def arguments(self, index: int, windows: int, start: int | None) -> tuple[tuple, dict]:
        """What the model passes to a block beside the hidden states, for so many windows.

        Args:
            start: the first of them, which matters where blocks pass something to each other.
        """
        if self.passed.of_tokens:
            assert start is not None
            self._stubs.run(self.numbers(start, start + windows))
            found = self._stubs.seen[index]
        else:
            if windows not in self._arguments:
                self._stubs.run(self.numbers(0, windows))
                self._arguments[windows] = self._stubs.seen
            found = self._arguments[windows][index]
        return self.passed.give(index, start, windows, *found) if start is not None else found

    def keep(self, index: int, start: int | None, kwargs: dict, out: Any) -> None:
        """Write what later blocks need of what a block was called with and has given."""
        if start is not None:
            self.passed.keep(index, start, kwargs, out)

    def load(self, index: int) -> "Block":
        """A block with its weights, while the next one's are read ahead; `unload` it before that
        one."""
        module = self.skeleton.blocks[index]
        prefix = f"{self.skeleton.blocks_name}.{index}."
        for name, values in self._ahead.take(index, self._read).items():
            set_parameter(module, name, values.to(self.device))
        for name, buffer in module.named_buffers():
            known = bare_name(prefix + name) in self.source.maps
            if known or self.source.targets_of(prefix + name):  # a bias of a router's, say
                values = read_parameter(self.source, prefix + name, tuple(buffer.shape), "float32")
                buffer.copy_(values)
        check_unchanged(self.model.checkpoint)  # before anything is made of what was read
        advise(self.source, self._parameters(index + 1))
        if self.device == "cuda" and index + 1 < len(self):
            self._ahead.begin(index + 1, self._read)
        module.to(self.device)
        linears = find_linears(self.source, prefix, module)
        return Block(self, index, module, linears, find_absorbed(self.source, prefix, module))

    def _read(self, index: int) -> dict[str, Any]:
        """The parameters of a block, by their names in it; for a GPU where it takes them from."""
        module = self.skeleton.blocks[index]
        prefix = f"{self.skeleton.blocks_name}.{index}."
        found = {}
        for name, parameter in module.named_parameters():
            shape = tuple(parameter.shape)
            values = read_parameter(self.source, prefix + name, shape, self.dtype)
            found[name] = values.pin_memory() if self.device == "cuda" else values
        return found

    def embed(self) -> None:
        """Have what goes into the first block on the disk; the walk does it by itself."""
        self.states.create()
        for start, stop in self.batches():
            self._stubs.run(self.numbers(start, stop))
            self.states.write(0, start, self._stubs.first)

    def numbers(self, start: int, stop: int) -> Any:
        """The numbers of some windows' tokens among the rows that the embedding has here."""
        import torch

        return torch.from_numpy(self._compact[start:stop]).to(self.device)

    def _outside(self) -> dict[str, Any]:
        """The modules outside the blocks and beside the output that multiply, by the GGUF names of
        their weights."""
        import torch

        found = find_linears(self.source, "", self.skeleton.model)
        lines = found.items()  # embeddings, of positions too, look their rows up
        return {n: line.module for n, line in lines if isinstance(line.module, torch.nn.Linear)}

    def _width(self) -> int:
        return int(self.skeleton.config.hidden_size) * self.copies

    def _check_positions(self) -> None:
        longest = getattr(self.skeleton.config, "max_position_embeddings", None)
        if isinstance(longest, int):
            longest -= self.model.family.first_position(self.model.settings)
        if isinstance(longest, int) and self.tokens.shape[1] > longest:
            raise PlanError(
                f"windows of {self.tokens.shape[1]} tokens are longer than the model's {longest}",
                f"use --window {longest}",
            )

    def _fill_rest(self, rest: dict[str, Any]) -> None:
        """Load what is outside the blocks: norms, positions, and the rows of embeddings that the
        sample needs, under new numbers."""
        model = self.skeleton.model
        for name, parameter in rest.items():
            values = read_parameter(self.source, name, tuple(parameter.shape), self.dtype)
            set_parameter(model, name, values.to(self.device))
        used, numbers = np.unique(self.tokens, return_inverse=True)
        self._compact = numbers.reshape(self.tokens.shape).astype(np.int64)
        for number, table in enumerate(self.skeleton.tables):
            names = [f"{module}.weight" for module in table]
            stored = next((n for n in names if bare_name(n) in self.source.maps), names[0])
            rows = self._rows_of(stored, used, is_first=not number)
            for name in names:
                set_parameter(model, name, rows)
        model.to(self.device)

    def _rows_of(self, table: str, used: np.ndarray, *, is_first: bool) -> Any:
        """Of a table those of some tokens. Tokens that one for each layer lacks take the first row,
        as in transformers."""
        map_ = self.source.maps.get(bare_name(table))
        if is_first or map_ is None or used[-1] < map_.rows:
            return read_rows_of(self.source, table, used, self.dtype)
        known = np.union1d([0], used[used < map_.rows])
        rows = read_rows_of(self.source, table, known, self.dtype)
        places = np.searchsorted(known, np.where(used < map_.rows, used, 0))
        return rows[places.tolist()]

    def _parameters(self, index: int) -> list[str]:
        """The names of a block's parameters; none behind the last."""
        if index >= len(self):
            return []
        prefix = f"{self.skeleton.blocks_name}.{index}."
        return [prefix + name for name, _ in self.skeleton.blocks[index].named_parameters()]


def _show(observe: Observe, name: str, module: Any, args: tuple) -> None:
    observe((name,), args[0].reshape(-1, args[0].shape[-1]), 0)
