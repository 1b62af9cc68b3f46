"""The modules of a block that multiply their input with weights, by the weights' GGUF names."""

from dataclasses import dataclass
from typing import Any

from qconvert.forward.weights import Parameters


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


def names_in(linears: dict[str, Linear], module: Any) -> dict[str, tuple[str, ...]]:
    return {line.parameter: line.names for line in linears.values() if line.module is module}


def find_linears(source: Parameters, prefix: str, module: Any) -> dict[str, Linear]:
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


def find_vectors(source: Parameters, prefix: str, module: Any) -> dict[str, tuple[Any, str]]:
    """The parameters of one dimension in a module (norms and biases), each as the module that holds
    it and the attribute, by the GGUF names of those that are whole tensors there."""
    found: dict[str, tuple[Any, str]] = {}
    for inner, child in module.named_modules():
        for attribute, parameter in child.named_parameters(recurse=False):
            name = prefix + (f"{inner}.{attribute}" if inner else attribute)
            targets = source.targets_of(name)
            if parameter.dim() == 1 and len(targets) == 1:
                found[targets[0][0]] = (child, attribute)
    return found


def rows_of(line: Linear, parameter: Any) -> Any:
    """A view of a weight in its parameter: [rows, columns], of experts [experts, rows, columns]."""
    rows = parameter.transpose(-1, -2) if line.transpose else parameter
    return rows if line.rows is None else rows[..., line.rows[0] : line.rows[1], :]


def with_rows(line: Linear, parameter: Any, rows: Any) -> Any:
    """The parameter with other rows of this weight; gradients go back to them.

    Args:
        rows: of the parameter's type, in the shape of `rows_of`.

    Raises:
        ValueError: they have another shape.
    """
    import torch

    if rows.shape != rows_of(line, parameter).shape:
        raise ValueError(f"{list(rows.shape)} are no rows of {line.names}")
    if line.rows is not None:
        own = parameter.transpose(-1, -2) if line.transpose else parameter
        start, stop = line.rows
        rows = torch.cat([own[..., :start, :], rows, own[..., stop:, :]], dim=-2)
    return rows.transpose(-1, -2) if line.transpose else rows
