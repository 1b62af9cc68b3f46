"""Tuning: what a file stores beside its codes is trained, and the codes too if that is asked for.

    x = step * value - low        step = unit * whole, low likewise        (`formats.types.Units`)

Units, wholes and the places of codes among their values are trained as real numbers. What is
computed with is what can be stored: units are narrowed to their dtype, wholes and places rounded.
Gradients pass the rounding as if it were not there (the straight-through estimator), but for what
is beyond the limits already and would go further.

Real numbers count from what was stored, in parts of it: so one rate serves all. A place begins at
its code, as far from one neighbour as from the other, and not where the weight was: codes that
feedback has moved on purpose would be the first to move back.

Sources: Y. Bengio et al., "Estimating or propagating gradients through stochastic neurons", arXiv
1308.3432; S. K. Esser et al., "Learned step size quantization", arXiv 1902.08153.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qconvert.formats.types import Arrays, Coded, Format, Units

FLIP = 0.1
"""How far a real number moves, as those of units do by a tenth of the unit, until a whole or a
code becomes its neighbour."""

LARGEST = {"F16": 65504.0, "F8_E4M3": 448.0}
SMALLEST = {"F8_E4M3": 2.0**-9}


def narrowed(x: Any, dtype: str) -> Any:
    """A float32 tensor as it can be stored; gradients pass."""
    import torch

    kinds = {"F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn}
    if dtype not in kinds:
        return x
    top = LARGEST.get(dtype)
    inside = x if top is None else x.clamp(SMALLEST.get(dtype, -top), top)
    return x + (inside.to(kinds[dtype]).float() - x).detach()


def through(x: Any, rounded: Any, low: Any, high: Any) -> Any:
    """`rounded`, derived as x is, but not where x is beyond the limits."""
    inside = x.clamp(low, high)
    return inside + (rounded - inside).detach()


def _spread_backward(grad: Any, value: Any, groups: int) -> tuple[Any, Any]:
    """What steps and lows are derived by, of what weights are."""
    by = grad.float().view(len(grad), groups, -1)
    return (by * value.view_as(by)).sum(dim=-1), -by.sum(dim=-1)


def spread(step: Any, low: Any, value: Any, size: int, dtype: Any) -> Any:
    """step * value - low, [rows, columns], in a dtype.

    Args:
        step, low: float32 [rows, groups]; low may be None.
        value: [rows, columns], of any type of numbers; floats are derived by.
        size: columns of a group.
    """
    import torch

    class Spread(torch.autograd.Function):
        """Keeps the values in the type that they have, and makes no other copy of the weight."""

        @staticmethod
        def forward(context: Any, step: Any, low: Any, value: Any) -> Any:
            context.save_for_backward(step, value)
            grouped = value.view(*step.shape, size)
            made = step[..., None] * grouped
            return (made if low is None else made - low[..., None]).view_as(value).to(dtype)

        @staticmethod
        def backward(context: Any, *grads: Any) -> Any:
            step, value = context.saved_tensors
            by_step, by_low = _spread_backward(grads[0], value, step.shape[1])
            by_value = None
            if context.needs_input_grad[2]:
                by_value = grads[0].float().view(*step.shape, size) * step[..., None]
                by_value = by_value.view_as(value)
            return by_step, by_low if context.needs_input_grad[1] else None, by_value

    return Spread.apply(step, low, value)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Trained:
    """Units that are trained.

    Attributes:
        units: as they were stored.
        unit, whole: real numbers, 0 for what was stored; None where they stay.
    """

    units: Units
    unit: Any = None
    whole: Any = None

    def value(self, other: Any) -> tuple[Any, Any]:
        """The unit, float32 as it is stored, and the whole; either may be None.

        Args:
            other: the units of the steps, where lows have none.
        """
        import torch

        units = self.units
        unit, whole = other, None
        if units.unit is not None:
            unit = torch.tensor(units.unit)
            if self.unit is not None:
                unit = unit.to(self.unit.device)
                unit = narrowed(unit * (1 + self.unit), units.dtype)
        if units.whole is not None:
            whole = torch.tensor(units.whole).float()
            if self.whole is not None:
                low, high = units.limits
                moved = whole.to(self.whole.device) + self.whole * (0.5 / FLIP)
                whole = through(moved, moved.round().clamp(low, high), low - 0.5, high + 0.5)
        return unit, whole

    def stored(self) -> Units:
        """As they have become."""
        unit, whole = self.value(None)
        units = self.units
        if unit is not None:
            units = units._replace(unit=unit.detach().cpu().numpy())
        if whole is not None and units.whole is not None:
            kind = units.whole.dtype
            units = units._replace(whole=whole.detach().cpu().numpy().astype(kind))
        return units


@dataclass(frozen=True)
class Tuned:
    """A quantized matrix that is trained.

    Attributes:
        format: that it is stored in.
        coded: as it was stored.
        step, low: what its grid is made of.
        place: of each weight among the values, rising, as a real number; None where codes stay.
    """

    format: Format
    coded: Coded
    step: Trained
    low: Trained | None
    place: Any = None
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    def parameters(self) -> Iterator[tuple[str, Any]]:
        """All that is trained, by name."""
        for name, trained in (("step", self.step), ("low", self.low)):
            if trained is not None:
                for part in ("unit", "whole"):
                    if getattr(trained, part) is not None:
                        yield f"{name} {part}", getattr(trained, part)
        if self.place is not None:
            yield "place", self.place

    def weights(self, dtype: Any, device: str = "cpu") -> Any:
        """The weights as what is stored gives them, [rows, columns], to be derived."""
        grid = self.format.grid(self.coded.params)
        assert grid is not None
        step, low = self._steps(grid.step.shape, device)
        value = self._values(grid.values, grid.first, device)
        columns = value.shape[1]
        rest = -columns % grid.size
        if rest:
            import torch

            value = torch.nn.functional.pad(value, (0, rest))
        return spread(step, low, value, grid.size, dtype)[:, :columns]

    def arrays(self) -> Arrays:
        """What is stored of what it has become."""
        low = None if self.low is None else self.low.stored()
        params = self.format.with_units(self.coded.params, self.step.stored(), low)
        codes = self.coded.codes
        if self.place is not None:
            grid = self.format.grid(self.coded.params)
            assert grid is not None
            order = _rising(grid.values)
            places = self.place.detach().round().clamp(0, len(order) - 1)
            kind = codes.dtype
            made = order[places.cpu().numpy().astype(np.intp)] + grid.first
            codes = np.ascontiguousarray(made.astype(kind))
        return self.format.pack(codes, params)

    def _steps(self, shape: tuple[int, ...], device: str) -> tuple[Any, Any]:
        unit, whole = self.step.value(None)
        step = _over(unit, whole, shape, device) * self.step.units.by
        if self.low is None:
            return step, None
        return step, _over(*self.low.value(unit), shape, device) * self.low.units.by

    def _values(self, values: np.ndarray, first: int, device: str) -> Any:
        """What each weight's code stands for: of few bytes where codes stay."""
        import torch

        if self.place is None:
            if "value" not in self._cache:
                found = values[self.coded.codes.astype(np.intp) - first]
                whole = np.array_equal(found, found.astype(np.int8))
                kind = np.int8 if whole else np.float16
                self._cache["value"] = torch.from_numpy(found.astype(kind)).to(device)
            return self._cache["value"]
        ordered = torch.from_numpy(values[_rising(values)]).to(device)
        last = len(ordered) - 1
        places = self.place.detach().round().clamp(0, last)
        rounded = ordered[places.long()]
        if bool((ordered.diff() == 1).all()):
            return through(self.place + ordered[0], rounded, ordered[0] - 0.5, ordered[-1] + 0.5)
        below = self.place.detach().floor().clamp(0, last - 1).long()
        slope = (ordered[below + 1] - ordered[below]).detach()
        inside = self.place.clamp(-0.5, last + 0.5)
        return rounded + slope * (inside - inside.detach())


def _rising(values: np.ndarray) -> np.ndarray:
    """The places of finite values in a table, each once, from the least to the greatest."""
    ascending, first = np.unique(values, return_index=True)
    return np.asarray(first[np.isfinite(ascending)])


def _over(unit: Any, whole: Any, shape: tuple[int, ...], device: str) -> Any:
    """unit * whole, of the grid's shape [rows, groups]."""
    unit = unit.to(device)
    for axis, count in enumerate(shape):
        have = unit.shape[axis]
        if have not in (1, count):
            unit = unit.repeat_interleave(-(-count // have), dim=axis).narrow(axis, 0, count)
    return unit.expand(shape) if whole is None else unit * whole.to(device)


def tuned(
    format_: Format, arrays: Arrays, *, codes: bool = False, device: str = "cpu"
) -> Tuned | None:
    """A stored matrix, to be trained; None where the format has no grid.

    Args:
        codes: are trained too.
    """
    import torch

    coded = format_.unpack(arrays)
    units = None if coded is None else format_.units(coded.params)
    if coded is None or units is None:
        return None

    def begin(one: Units) -> Trained:
        def zeros(of: np.ndarray | None, is_trained: bool) -> Any:
            if of is None or not is_trained:
                return None
            return torch.zeros(of.shape, device=device, requires_grad=True)

        several = one.whole is not None and one.unit is not None
        return Trained(one, zeros(one.unit, bool(one.dtype)), zeros(one.whole, several))

    step, low = begin(units[0]), units[1] and begin(units[1])
    place = None
    if codes:
        place = torch.from_numpy(_places(format_, coded)).to(device).requires_grad_()
    return Tuned(format_, coded, step, low, place)


def _places(format_: Format, coded: Coded) -> np.ndarray:
    """Where codes lie among the values, rising: float32 [rows, columns]."""
    grid = format_.grid(coded.params)
    assert grid is not None
    ordered = grid.values[_rising(grid.values)]
    place = np.searchsorted(ordered, np.nan_to_num(grid.values)).astype(np.float32)
    found: np.ndarray = place[coded.codes.astype(np.intp) - grid.first]
    return found
