"""One block of a model with its weights, and the hidden states that go into it.

`qconvert.forward.walk` says how it is used.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from qconvert.errors import WeightError
from qconvert.forward.absorbed import Absorbed
from qconvert.forward.copies import apart, joined
from qconvert.forward.experts import Inputs, are_experts, first_of, run_all_experts, run_experts
from qconvert.forward.linears import Linear, names_in, with_rows
from qconvert.forward.memory import release_freed_memory
from qconvert.forward.skeleton import put_tensor, set_parameter
from qconvert.forward.states import States
from qconvert.forward.steps import show_steps

if TYPE_CHECKING:
    from qconvert.forward.passage import Passage

Observe = Callable[[tuple[str, ...], Any, int], None]


class Way(Protocol):
    """What a block needs to know of the walk that it belongs to."""

    device: str
    dtype: str
    states: States
    inputs: Inputs | None
    copies: int

    def batches(self) -> Iterator[tuple[int, int]]: ...

    def arguments(self, index: int, windows: int, start: int | None) -> tuple[tuple, dict]: ...

    def keep(self, index: int, start: int | None, kwargs: dict, out: Any) -> None: ...


@dataclass
class Block:
    """One block with its weights, and the hidden states that go into it.

    Attributes:
        index: from 0.
        module: transformers'.
        linears: by the GGUF name of each weight.
        absorbed: weights that a runtime multiplies with something else than transformers.
        is_done: whether its output is stored.
        passage: what its batches wait in, if they do.
    """

    walk: Way
    index: int
    module: Any
    linears: dict[str, Linear]
    absorbed: tuple[Absorbed, ...] = ()
    is_done: bool = False
    _observe: Observe | None = field(default=None, repr=False)
    passage: "Passage | None" = field(default=None, repr=False)
    _give: Observe | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for module in {id(line.module): line.module for line in self.linears.values()}.values():
            names = names_in(self.linears, module)
            if are_experts(module):
                fused = (names[first_of(module)], names["down_proj"])
                module.forward = partial(_experts_forward, self, module, fused)
            else:
                module.register_forward_pre_hook(partial(_before, self, names["weight"]))
                module.register_forward_hook(partial(_after, self, names["weight"]))
        for one in self.absorbed:
            one.begin(self._show_absorbed)
        self._steps = show_steps(self.module, self._show_steps)
        self._pending: tuple[Any, tuple[str, ...]] | None = None

    @property
    def matrices(self) -> dict[str, int]:
        """How many each weight has."""
        sizes = {name: one.heads for one in self.absorbed for name in (one.keys, one.values)}
        for name, line in self.linears.items():
            parameter = getattr(line.module, line.parameter)
            sizes[name] = len(parameter) if parameter.dim() == 3 else 1
        return sizes

    def batches(self, windows: int | None = None) -> Iterator[tuple[int, Any]]:
        """The number of the first window, and hidden states [windows, window, hidden]."""
        for start, stop in self.walk.batches():
            if windows is not None and start >= windows:
                return
            stop = stop if windows is None else min(stop, windows)
            yield start, self.walk.states.read(self.index, start, stop).to(self.walk.device)

    def install(self, name: str, rows: Any) -> None:
        """Have the block compute with other rows of a weight, as their tensor: what runs later,
        and later blocks, see what it has become.

        Args:
            name: the weight's, GGUF's.
            rows: [rows, columns], of experts [experts, rows, columns], in the order that
                transformers' module has them, on any device and of any float type. Where they
                want a gradient, `forward(gradients=True)` leads to it.

        Raises:
            ValueError: they have another shape.
        """
        line = self.linears[name]
        own = getattr(line.module, line.parameter)
        put_tensor(line.module, line.parameter, with_rows(line, own, rows.to(own)))

    def forward(
        self,
        hidden: Any,
        observe: Observe | None = None,
        *,
        start: int | None = None,
        gradients: bool = False,
        give: Observe | None = None,
    ) -> Any:
        """What the block makes of hidden states [windows, window, hidden].

        Args:
            start: the first window; what blocks pass to each other beside hidden states needs it.
            gradients: keep what is needed to derive the output by what wants a gradient.
            give: called after each product, with the names of all weights in its module, what it
                gave [..., rows], and the number of the matrix.
        """
        import torch

        args, kwargs = self.walk.arguments(self.index, len(hidden), start)
        self._observe, self._give = observe, give
        try:
            with torch.set_grad_enabled(gradients):
                out = self.module(apart(hidden, self.walk.copies), *args, **kwargs)
            self._flush()
            self.walk.keep(self.index, start, kwargs, out)
        finally:
            self._observe, self._pending, self._give = None, None, None
        return joined(out[0] if isinstance(out, tuple) else out, self.walk.copies)

    def run(
        self,
        observe: Observe | None = None,
        advance: Callable[[int], None] | None = None,
        before_write: Callable[[], None] | None = None,
    ) -> None:
        """All windows through the block, or what is left of their passage; what comes out goes into
        the next.

        Args:
            observe: see the module's text.
            advance: called with the number of windows of each batch.
            before_write: called once, before hidden states of the block before are lost.

        Raises:
            WeightError: NaN or infinity comes out.
        """
        for number, (start, hidden) in enumerate(self.batches()):
            if self.passage is not None:
                out = self.passage.finish(number, hidden)
            else:
                out = self.forward(hidden, observe, start=start)
            check_finite(self, out)
            if before_write and not start:
                before_write()
            self.walk.states.write(self.index + 1, start, out)
            if advance:
                advance(len(hidden))
        self.is_done = True

    def unload(self) -> None:
        """Forget the weights."""
        for line in self.linears.values():
            put_tensor(line.module, line.parameter, getattr(line.module, line.parameter).detach())
        for name, parameter in list(self.module.named_parameters()):
            set_parameter(self.module, name, parameter.to("meta"))
        for line in self.linears.values():
            line.module._forward_pre_hooks.clear()
            line.module._forward_hooks.clear()
            line.module.__dict__.pop("forward", None)
        for one in self.absorbed:
            one.end()
        for handle in self._steps:
            handle.remove()
        release_freed_memory()

    def see(self, names: tuple[str, ...], x: Any) -> None:
        """Called before a product. The same input for several weights is shown once, when the
        next one comes."""
        if self.passage is not None:
            self.passage.arrive(names, x)
        elif self._observe is not None:
            if self._pending is not None and self._pending[0] is x:
                names = self._pending[1] + names
            else:
                self._flush()
            self._pending = (x, names)

    def see_experts(self, names: tuple[str, ...], inputs: list[tuple[Any, int]]) -> None:
        """Called before the products of a layer of experts."""
        if self.passage is not None:
            self.passage.arrive_with(names, inputs)
            return
        self._flush()
        for x, matrix in inputs:
            self._show(names, x, matrix)

    def _show_absorbed(self, name: str, x: Any, matrix: int) -> None:
        if self._observe is not None and self.passage is None:
            self._flush()
            self._observe((name,), x, matrix)

    def _show_steps(self, module: Any, x: Any) -> Any:
        """Called with the input of a module whose weight is multiplied without it."""
        names = names_in(self.linears, module)["weight"]
        self.see(names, x)
        return self.walk.inputs(names, x) if self.walk.inputs else x

    def _flush(self) -> None:
        if self._pending is not None:
            x, names = self._pending
            self._pending = None
            self._show(names, x, 0)

    def _show(self, names: tuple[str, ...], x: Any, matrix: int) -> None:
        if self._observe is not None:
            self._observe(names, self.linears[names[0]].arranged(x), matrix)


def _before(block: Block, names: tuple[str, ...], module: Any, args: tuple) -> tuple | None:
    block.see(names, args[0])
    inputs, columns = block.walk.inputs, block.linears[names[0]].columns
    if inputs is None:
        return None
    if not columns:
        return inputs(names, args[0]), *args[1:]
    changed = inputs(names, args[0][..., columns])  # in the order in which blocks are made
    return changed[..., np.argsort(columns)], *args[1:]


def _after(block: Block, names: tuple[str, ...], module: Any, args: tuple, out: Any) -> None:
    if block._give is not None:
        block._give(names, out, 0)


def _experts_forward(
    block: Block,
    module: Any,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    hidden: Any,
    chosen: Any = None,
    weights: Any = None,
) -> Any:
    inputs, give = block.walk.inputs, block._give
    if chosen is None:
        return run_all_experts(module, names, block.see_experts, hidden, inputs, give)
    return run_experts(module, names, block.see_experts, hidden, chosen, weights, inputs, give)


def check_finite(block: Block, out: Any) -> None:
    """Refuse an output of a block.

    Raises:
        WeightError: it has NaN or infinity.
    """
    import torch

    if not torch.isfinite(out.sum(dtype=torch.float32)):
        hint = "the weights may be damaged"
        if block.walk.dtype == "float16":
            hint = "float16 ends at 65504: choose --dtype bf16 or f32"
        raise WeightError(f"block {block.index} gives values that are NaN or infinite", hint)
