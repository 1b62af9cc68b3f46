"""The model at work, one block in memory at a time.

transformers' own model runs with stubs in place of its blocks, which tell what it passes to each
(masks, positions) and stand for the blocks before and after. So every family's own code computes
everything, and memory holds one block, a batch and its activations.

    walk = Walk(checkpoint, tokens, Place(folder))      # tokens: int [windows, window]
    for block in walk:                                  # weights are loaded here
        block.linears                                   # GGUF name of a weight -> Linear
        block.run(observe)                              # all windows through it, to the next one
    walk.finish(observe)                                # the output projection's input

`observe(weights, x, matrix)` is called before each product: with the GGUF names of the weights
that are multiplied with x (those of q, k and v together), x as [tokens, columns] on the device in
the run's type, and the number of the matrix (the expert; else 0). x may not be kept or changed.

For a search within a block, before `run`:

    for start, hidden in block.batches():               # hidden: [windows, window, hidden]
        out = block.forward(hidden)                     # any number of times, with any weights
    block.forward(hidden, observe)                      # the same, observed

`block.module` is transformers' own; what is changed in its parameters counts for what follows.
Where `run` is not called, the next block is reached by running without an observer. `batches`
gives the same windows each time, all of them or `windows=` the first few.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.checkpoint import Checkpoint
from qconvert.errors import PlanError, WeightError
from qconvert.forward.ahead import advise
from qconvert.forward.device import choose_device, choose_dtype
from qconvert.forward.experts import are_experts, run_experts
from qconvert.forward.memory import release_freed_memory
from qconvert.forward.skeleton import Skeleton, build_skeleton, set_module
from qconvert.forward.states import States
from qconvert.forward.weights import Source, open_source, read_parameter, read_rows_of

Observe = Callable[[tuple[str, ...], Any, int], None]

BATCH_TOKENS = {"cpu": 4096, "cuda": 16384, "mps": 8192}
"""Tokens of a batch; at least one window."""


@dataclass(frozen=True)
class Place:
    """Where and how to compute.

    Attributes:
        folder: for the hidden states, two files.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "auto", "bf16", "f32" or "f16".
        threads: of torch on the CPU; None leaves it as it is.
        batch: windows at once; None chooses.
    """

    folder: Path
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Linear:
    """A module that multiplies its input with weights.

    Attributes:
        names: the GGUF names of all weights in it, in the order of their rows.
        module: transformers': has `weight`, or of experts `gate_up_proj` and `down_proj`.
        parameter: the attribute that holds the weight: "weight", "gate_up_proj", "down_proj".
        rows: of the parameter (of each of its matrices), first and last + 1; None for all.
        transpose: the parameter is [in, out] (GPT-2's Conv1D).
    """

    names: tuple[str, ...]
    module: Any
    parameter: str = "weight"
    rows: tuple[int, int] | None = None
    transpose: bool = False


class Walk:
    """A model and a sample on their way through the blocks. See the module's text.

    Args:
        checkpoint: the model.
        tokens: int [windows, window].
        place: where and how.
        begin: the first block to visit; the hidden states that go into it are in the folder.

    Raises:
        UnsupportedError: a family that transformers or this program does not know.
        PlanError: weights are missing, or the windows are longer than the model's positions.
        UsageError: the device or type cannot be had.
    """

    def __init__(
        self, checkpoint: Checkpoint, tokens: np.ndarray, place: Place, begin: int = 0
    ) -> None:
        import torch

        self.device = choose_device(place.device)
        self.dtype = choose_dtype(place.dtype, self.device)
        if place.threads and self.device == "cpu":
            torch.set_num_threads(place.threads)
        self.source: Source = open_source(checkpoint)
        self.skeleton: Skeleton = build_skeleton(self.source)
        self.tokens = tokens
        self.begin = begin
        self.batch = place.batch or max(1, BATCH_TOKENS[self.device] // tokens.shape[1])
        self.states = States(place.folder, (*tokens.shape, self._width()), self.dtype)
        self._check_positions()
        rest = self.skeleton.parameters_beside_blocks()
        self._stubs = _Stubs(self.skeleton)
        self._fill_rest(rest)
        self._arguments: dict[int, list[tuple[tuple, dict]]] = {}

    def __len__(self) -> int:
        return len(self.skeleton.blocks)

    def __iter__(self) -> "Iterator[Block]":
        self.states.create()
        for index in range(self.begin, len(self)):
            if index == 0:
                self._embed()
            block = self._load(index)
            advise(self.source, self._parameters(index + 1))
            yield block
            if not block.is_done:
                block.run()
            block.unload()

    @property
    def output_name(self) -> str:
        """The GGUF name of the output projection's weight; empty where there is none."""
        if not self.skeleton.head:
            return ""
        return "output.weight" if "output.weight" in self.source.names else "token_embd.weight"

    def finish(self, observe: Observe | None = None) -> None:
        """Show the input of the output projection to the observer, where there is one."""
        for hidden in self.last_hidden():
            if observe and self.output_name:
                observe((self.output_name,), hidden.reshape(-1, hidden.shape[-1]), 0)

    def last_hidden(self) -> Iterator[Any]:
        """What comes out behind the last block and norm: [windows, window, hidden], by batch."""
        for start, stop in self.batches():
            hidden = self.states.read(len(self), start, stop).to(self.device)
            yield self._stubs.run(self._ids(start, stop), last=hidden)

    def batches(self) -> Iterator[tuple[int, int]]:
        """First and last + 1 of the windows of each batch."""
        for start in range(0, len(self.tokens), self.batch):
            yield start, min(start + self.batch, len(self.tokens))

    def arguments(self, index: int, windows: int) -> tuple[tuple, dict]:
        """What the model passes to a block beside the hidden states, for so many windows."""
        if windows not in self._arguments:
            self._stubs.run(self._ids(0, windows))
            self._arguments[windows] = self._stubs.seen
        return self._arguments[windows][index]

    def _embed(self) -> None:
        for start, stop in self.batches():
            self._stubs.run(self._ids(start, stop))
            self.states.write(0, start, self._stubs.first)

    def _ids(self, start: int, stop: int) -> Any:
        import torch

        return torch.from_numpy(self._compact[start:stop]).to(self.device)

    def _width(self) -> int:
        return int(self.skeleton.config.hidden_size)

    def _check_positions(self) -> None:
        longest = getattr(self.skeleton.config, "max_position_embeddings", None)
        if isinstance(longest, int) and self.tokens.shape[1] > longest:
            raise PlanError(
                f"windows of {self.tokens.shape[1]} tokens are longer than the model's {longest}",
                f"use --window {longest}",
            )

    def _fill_rest(self, rest: dict[str, Any]) -> None:
        """Load what is outside the blocks: norms, positions, and the rows of the embedding that
        the sample needs, under new numbers."""
        model = self.skeleton.model
        for name, parameter in rest.items():
            values = read_parameter(self.source, name, tuple(parameter.shape), self.dtype)
            _set_parameter(model, name, values.to(self.device))
        table = model.get_input_embeddings()
        name = next(n for n, module in model.named_modules() if module is table) + ".weight"
        used, numbers = np.unique(self.tokens, return_inverse=True)
        self._compact = numbers.reshape(self.tokens.shape).astype(np.int64)
        rows = read_rows_of(self.source, name, used, self.dtype)
        _set_parameter(model, name, rows)
        model.to(self.device)

    def _parameters(self, index: int) -> list[str]:
        """The names of a block's parameters; none behind the last."""
        if index >= len(self):
            return []
        prefix = f"{self.skeleton.blocks_name}.{index}."
        return [prefix + name for name, _ in self.skeleton.blocks[index].named_parameters()]

    def _load(self, index: int) -> "Block":
        module = self.skeleton.blocks[index]
        prefix = f"{self.skeleton.blocks_name}.{index}."
        shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        for name, shape in shapes.items():
            values = read_parameter(self.source, prefix + name, shape, self.dtype)
            _set_parameter(module, name, values.to(self.device))
        module.to(self.device)
        return Block(self, index, module, _linears(self.source, prefix, module))


@dataclass
class Block:
    """One block with its weights, and the hidden states that go into it.

    Attributes:
        index: from 0.
        module: transformers'.
        linears: by the GGUF name of each weight.
        is_done: whether its output is stored.
    """

    walk: Walk
    index: int
    module: Any
    linears: dict[str, Linear]
    is_done: bool = False
    _observe: Observe | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for module in {id(line.module): line.module for line in self.linears.values()}.values():
            names = _names_in(self.linears, module)
            if are_experts(module):
                fused = (names["gate_up_proj"], names["down_proj"])
                module.forward = partial(_experts_forward, self, module, fused)
            else:
                module.register_forward_pre_hook(partial(_before, self, names["weight"]))
        self._pending: tuple[Any, tuple[str, ...]] | None = None

    def batches(self, windows: int | None = None) -> Iterator[tuple[int, Any]]:
        """The number of the first window, and hidden states [windows, window, hidden]."""
        for start, stop in self.walk.batches():
            if windows is not None and start >= windows:
                return
            stop = stop if windows is None else min(stop, windows)
            yield start, self.walk.states.read(self.index, start, stop).to(self.walk.device)

    def forward(self, hidden: Any, observe: Observe | None = None) -> Any:
        """What the block makes of hidden states [windows, window, hidden]."""
        import torch

        args, kwargs = self.walk.arguments(self.index, len(hidden))
        self._observe = observe
        try:
            with torch.no_grad():
                out = self.module(hidden, *args, **kwargs)
            self._flush()
        finally:
            self._observe = self._pending = None
        return out[0] if isinstance(out, tuple) else out

    def run(
        self,
        observe: Observe | None = None,
        advance: Callable[[int], None] | None = None,
        before_write: Callable[[], None] | None = None,
    ) -> None:
        """All windows through the block; what comes out goes into the next.

        Args:
            observe: see the module's text.
            advance: called with the number of windows of each batch.
            before_write: called once, before hidden states of the block before are lost.

        Raises:
            WeightError: NaN or infinity comes out.
        """
        for start, hidden in self.batches():
            out = self.forward(hidden, observe)
            _check_finite(self, out)
            if before_write and not start:
                before_write()
            self.walk.states.write(self.index + 1, start, out)
            if advance:
                advance(len(hidden))
        self.is_done = True

    def unload(self) -> None:
        """Forget the weights."""
        for name, parameter in list(self.module.named_parameters()):
            _set_parameter(self.module, name, parameter.to("meta"))
        for line in self.linears.values():
            line.module._forward_pre_hooks.clear()
            line.module.__dict__.pop("forward", None)
        release_freed_memory()

    def see(self, names: tuple[str, ...], x: Any, matrix: int = 0) -> None:
        """Called before a product. The same input for several weights is shown once, when the
        next one comes."""
        if self._observe is None:
            return
        if matrix == 0 and self._pending is not None and self._pending[0] is x:
            self._pending = (x, self._pending[1] + names)
            return
        self._flush()
        if len(names) and not _is_expert(self.linears[names[0]]):
            self._pending = (x, names)
        else:
            self._show(names, x, matrix)

    def _flush(self) -> None:
        if self._pending is not None:
            x, names = self._pending
            self._pending = None
            self._show(names, x, 0)

    def _show(self, names: tuple[str, ...], x: Any, matrix: int) -> None:
        if self._observe is not None:
            self._observe(names, x.reshape(-1, x.shape[-1]), matrix)


def _is_expert(line: Linear) -> bool:
    return line.parameter != "weight"


def _before(block: Block, names: tuple[str, ...], module: Any, args: tuple) -> None:
    block.see(names, args[0])


def _experts_forward(
    block: Block,
    module: Any,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    hidden: Any,
    chosen: Any,
    weights: Any,
) -> Any:
    return run_experts(module, names, block.see, hidden, chosen, weights)


def _names_in(linears: dict[str, Linear], module: Any) -> dict[str, tuple[str, ...]]:
    return {line.parameter: line.names for line in linears.values() if line.module is module}


def _linears(source: Source, prefix: str, module: Any) -> dict[str, Linear]:
    """The modules of a block that multiply, by the GGUF names of their weights."""
    found: dict[str, Linear] = {}
    for inner, child in module.named_modules():
        for attribute, parameter in child.named_parameters(recurse=False):
            if parameter.dim() < 2:
                continue
            name = prefix + (f"{inner}.{attribute}" if inner else attribute)
            targets = source.targets_of(name)
            names = tuple(target for target, _ in targets)
            for target, rule in targets:
                line = Linear(names, child, attribute, rule.rows, rule.transpose)
                found[target] = line
    return found


def _set_parameter(module: Any, name: str, values: Any) -> None:
    import torch

    outer, _, last = name.rpartition(".")
    place = module.get_submodule(outer) if outer else module
    setattr(place, last, torch.nn.Parameter(values, requires_grad=False))


def _check_finite(block: Block, out: Any) -> None:
    import torch

    if not torch.isfinite(out.sum(dtype=torch.float32)):
        hint = "the weights may be damaged"
        if block.walk.dtype == "float16":
            hint = "float16 ends at 65504: choose --dtype bf16 or f32"
        raise WeightError(f"block {block.index} gives values that are NaN or infinite", hint)


class _Stubs:
    """transformers' model with stand-ins for its blocks and for its output projection."""

    def __init__(self, skeleton: Skeleton) -> None:
        import torch

        self.model = skeleton.model
        self.seen: list[tuple[tuple, dict]] = []
        self.first: Any = None
        self.last: Any = None
        self.caught: Any = None
        count = len(skeleton.blocks)

        class Stub(torch.nn.Module):
            """Hands on what it gets."""

            def __init__(self, block: Any) -> None:
                super().__init__()
                # Some models choose masks by what a block says of itself.
                for name, value in vars(block).items():
                    if isinstance(value, str | int | float | bool):
                        setattr(self, name, value)

            def forward(stub, hidden: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
                if not self.seen:
                    self.first = hidden
                self.seen.append((args, kwargs))
                return self.last if len(self.seen) == count and self.last is not None else hidden

        class Catch(torch.nn.Module):
            """Keeps what would be multiplied."""

            def forward(stub, hidden: Any) -> Any:  # noqa: N805
                self.caught = hidden
                return hidden[..., :1]

        # There is no padding, and ids are numbered anew: nothing to warn of.
        self.model.warn_if_padding_and_no_attention_mask = lambda *args: None
        stubs = torch.nn.ModuleList([Stub(block) for block in skeleton.blocks])
        set_module(self.model, skeleton.blocks_name, stubs)
        if skeleton.head:
            set_module(self.model, skeleton.head, Catch())

    def run(self, ids: Any, last: Any = None) -> Any:
        """What comes out behind the last block and norm; `last` stands for what the last block
        gives."""
        import torch

        self.seen, self.last, self.caught = [], last, None
        with torch.no_grad():
            out = self.model(input_ids=ids, use_cache=False)
        return out.last_hidden_state if self.caught is None else self.caught
