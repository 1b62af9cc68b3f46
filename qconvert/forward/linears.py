"""The modules of a block that multiply their input with weights, by the weights' GGUF names."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from qconvert.forward.weights import Parameters
from qconvert.model.transforms import columns_of
from qconvert.model.types import Rule


@dataclass(frozen=True)
class Linear:
    """A module that multiplies its input with weights.

    Attributes:
        names: the GGUF names of all weights in it, in the order of their rows.
        module: transformers': has `weight`, or of experts `gate_up_proj` or `up_proj`, and
            `down_proj`.
        parameter: the attribute that holds the weight: "weight", or one of those of experts.
        rows: which of the parameter (of each of its matrices) the weight has, in its order; None
            for all.
        transpose: the parameter is [in, out] (GPT-2's Conv1D).
        columns: in which order GGUF has the columns; empty for the parameter's.
    """

    names: tuple[str, ...]
    module: Any
    parameter: str = "weight"
    rows: slice | tuple[int, ...] | None = None
    transpose: bool = False
    columns: tuple[int, ...] = ()

    def arranged(self, x: Any) -> Any:
        """An input as GGUF's weight wants it: [tokens, columns]."""
        x = x.reshape(-1, x.shape[-1])
        return x[:, self.columns] if self.columns else x


def names_in(linears: dict[str, Linear], module: Any) -> dict[str, tuple[str, ...]]:
    return {line.parameter: line.names for line in linears.values() if line.module is module}


def find_linears(source: Parameters, prefix: str, module: Any) -> dict[str, Linear]:
    """The modules of a block that multiply, by the GGUF names of their weights."""
    import torch

    found: dict[str, Linear] = {}
    for inner, child in module.named_modules():
        for attribute, parameter in child.named_parameters(recurse=False):
            if parameter.dim() < 2 or isinstance(child, torch.nn.Conv1d):
                continue
            name = prefix + (f"{inner}.{attribute}" if inner else attribute)
            targets = [pair for pair in source.targets_of(name) if pair[0].endswith(".weight")]
            if any(rule.turned for _, rule in targets):  # see `qconvert.forward.absorbed`
                continue
            names = tuple(target for target, _ in targets)
            for target, rule in targets:
                inward = rule.transpose and not rule.transpose_on_load
                height = parameter.shape[-1 if inward else -2]
                rows, columns = _rows(rule, height), columns_of(rule.steps)
                found[target] = Linear(names, child, attribute, rows, inward, columns)
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


def _rows(rule: Rule, height: int) -> slice | tuple[int, ...] | None:
    """Those that a line of a table takes of so many."""
    if rule.runs:
        return tuple(row for start, stop in rule.runs for row in range(start, stop))
    if rule.rows is None:
        return None
    start, stop = rule.rows
    if not rule.period:
        return slice(start, stop)
    if stop == start + 1:
        return slice(start, height, rule.period)
    firsts = range(0, height, rule.period)
    return tuple(first + row for first in firsts for row in range(start, stop))


def rows_of(line: Linear, parameter: Any) -> Any:
    """A weight in its parameter, as GGUF has it but for the order within heads: [rows, columns], of
    experts [experts, rows, columns]. A view, where rows and columns are not in another order."""
    rows = parameter.transpose(-1, -2) if line.transpose else parameter
    rows = rows if line.rows is None else rows[..., line.rows, :]
    return rows[..., line.columns] if line.columns else rows


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
    if line.columns:
        rows = rows[..., np.argsort(line.columns)]
    if line.rows is not None:
        own = parameter.transpose(-1, -2) if line.transpose else parameter
        places = torch.arange(own.shape[-2], device=own.device)[line.rows,]
        rows = own.index_copy(-2, places, rows)
    return rows.transpose(-1, -2) if line.transpose else rows
