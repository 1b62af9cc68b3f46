"""A layer of experts, computed one expert at a time, so that each one's inputs can be seen before.

transformers 5 holds the experts of a layer in two parameters,

    gate_up_proj  [experts, 2 * size, hidden]    the gate's rows, then up's or by turns
    down_proj     [experts, hidden, size]

or both [in, out], with or without biases beside them, and says so in the module's attributes. Where
there are no gates, the first is `up_proj` [experts, size, hidden]. What lies between the products
is the module's own. Sums are made in the order of its plain ("eager") implementation.
"""

from collections.abc import Callable
from typing import Any

See = Callable[[tuple[str, ...], list[tuple[Any, int]]], None]
"""Called with GGUF names of weights, and with the input of each expert that has any, [tokens,
columns], and its number."""

Give = Callable[[tuple[str, ...], Any, int], None]
"""Called with the same names, what the product gave [tokens, rows], and the expert's number."""

Inputs = Callable[[tuple[str, ...], Any], Any]
"""Called with GGUF names of weights and their input [..., columns]; gives what is multiplied in its
place."""


def are_experts(module: Any) -> bool:
    """Whether a module is such a layer."""
    own = dict(module.named_parameters(recurse=False))
    return {first_of(module), "down_proj"} <= own.keys() and own["down_proj"].dim() == 3


def first_of(module: Any) -> str:
    """The parameter that a layer of experts multiplies first."""
    return "gate_up_proj" if getattr(module, "has_gate", True) else "up_proj"


def run_experts(
    module: Any,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    see: See,
    hidden: Any,
    chosen: Any,
    weights: Any,
    inputs: Inputs | None = None,
    give: Give | None = None,
) -> Any:
    """What a layer of experts gives.

    Args:
        module: transformers'.
        names: the GGUF names of the weights in the first parameter and in `down_proj`.
        see: called before the products of all experts.
        hidden: [tokens, hidden].
        chosen: int64 [tokens, experts per token].
        weights: of the chosen, the same shape.
        inputs: changes what is multiplied, or None.
        give: called after each product, or None.
    """
    import torch

    out = torch.zeros_like(hidden)
    order = torch.argsort(chosen.reshape(-1), stable=True)
    counts = torch.bincount(chosen.reshape(-1), minlength=len(module.down_proj)).tolist()
    ends = torch.tensor(counts).cumsum(0).tolist()
    places = {
        expert: order[end - count : end]
        for expert, (count, end) in enumerate(zip(counts, ends, strict=True))
        if count and expert < len(module.down_proj)
    }
    tokens = {expert: place // chosen.shape[-1] for expert, place in places.items()}
    see(names[0], [(hidden[own], expert) for expert, own in tokens.items()])
    inner = {}
    for expert, own in tokens.items():
        x = inputs(names[0], hidden[own]) if inputs else hidden[own]
        both = _product(module, first_of(module), expert, x)
        if give:
            give(names[0], both, expert)
        inner[expert] = module._apply_gate(both) if module.has_gate else module.act_fn(both)
    see(names[1], [(x, expert) for expert, x in inner.items()])
    for expert, x in inner.items():
        y = _product(module, "down_proj", expert, inputs(names[1], x) if inputs else x)
        if give:
            give(names[1], y, expert)
        weight = weights.reshape(-1)[places[expert], None]
        out.index_add_(0, tokens[expert], (y * weight).to(out.dtype))
    return out


def run_all_experts(
    module: Any,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    see: See,
    hidden: Any,
    inputs: Inputs | None = None,
    give: Give | None = None,
) -> Any:
    """What a layer of experts gives that is told of no choice: each expert has every token,
    multiplied with its score, which is 0 for those that it was not chosen for (Llama 4).

    Args:
        hidden: [experts * tokens, hidden], one expert's behind another's.

    The others are those of `run_experts`, of a module whose parameters are [in, out].
    """
    import torch

    every = hidden.view(len(module.down_proj), -1, hidden.shape[-1])
    out = torch.zeros_like(every)
    places = {expert: own.any(dim=-1).nonzero().flatten() for expert, own in enumerate(every)}
    places = {expert: place for expert, place in places.items() if len(place)}
    see(names[0], [(every[expert][place], expert) for expert, place in places.items()])
    inner = {}
    for expert, place in places.items():
        x = inputs(names[0], every[expert][place]) if inputs else every[expert][place]
        both = x @ module.gate_up_proj[expert]
        if give:
            give(names[0], both, expert)
        gate, up = both.chunk(2, dim=-1)
        inner[expert] = up * module.act_fn(gate)
    see(names[1], [(x, expert) for expert, x in inner.items()])
    for expert, x in inner.items():
        y = (inputs(names[1], x) if inputs else x) @ module.down_proj[expert]
        if give:
            give(names[1], y, expert)
        out[expert, places[expert]] = y
    return out.view(hidden.shape)


def _product(module: Any, parameter: str, expert: int, x: Any) -> Any:
    """What a matrix makes of an input, with its bias."""
    import torch

    weight = getattr(module, parameter)[expert]
    bias = getattr(module, f"{parameter}_bias")[expert] if module.has_bias else None
    return torch.nn.functional.linear(x, weight.T if module.is_transposed else weight, bias)
