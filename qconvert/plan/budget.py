"""An output of so many bytes: which type each tensor may have, and the recipe of those that are
chosen.

Each type that may be chosen makes a plan of its own, so that what a tensor becomes under it, and
in how many bytes, is what it becomes anywhere. What the user says of single tensors holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from qconvert.algorithms.allocate import Option
from qconvert.errors import UsageError
from qconvert.model.open import Model
from qconvert.plan.gguf.file_types import FILE_TYPES, find_format
from qconvert.plan.gguf.mixture import NEED_IMPORTANCE
from qconvert.plan.make import make_plan
from qconvert.plan.overrides import literal
from qconvert.plan.recipe import Overrides, Recipe
from qconvert.plan.safetensors.choices import layer_of
from qconvert.plan.safetensors.schemes import (
    WEIGHT_ONLY,
    find_mlx,
    find_scheme,
    is_mlx,
    is_scheme,
    kind_of,
)
from qconvert.plan.safetensors.tensors import Quantized
from qconvert.plan.statistics import Statistics
from qconvert.plan.types import Plan, TensorPlan

TYPES = (
    "iq2_xxs", "iq2_s", "q2_k", "iq3_xxs", "q3_k", "iq4_xs", "q4_k", "q5_k", "q6_k", "q8_0",
)  # fmt: skip
"""Of a GGUF file, unless the user names others: at each size those that lose least."""

SCHEMES = ("w4a16", "w8a16")
"""Of a directory: those that engines run."""

OF_MLX = ("mlx2", "mlx3", "mlx4", "mlx5", "mlx6", "mlx8")
"""Of a directory for MLX."""

TABLES, TABLE = "/(per_layer_)?token_embd.weight|output.weight/", "q4_k"
"""What a calibration may say nothing of, and what it gets where a type cannot do without."""


@dataclass(frozen=True)
class Menu:
    """What may be chosen.

    Attributes:
        recipe: with a budget.
        plans: by type, in which every open tensor has that type.
    """

    recipe: Recipe
    plans: Mapping[str, Plan]

    @cached_property
    def candidates(self) -> dict[str, dict[str, TensorPlan]]:
        """By tensor and type, what it may become; only tensors that have a choice."""
        found: dict[str, dict[str, TensorPlan]] = {}
        for type_, plan in self.plans.items():
            for tensor in plan.tensors:
                options = found.setdefault(tensor.name, {})
                if all(tensor.format != other.format for other in options.values()):
                    options[type_] = tensor
        return {name: options for name, options in found.items() if len(options) > 1}

    @property
    def budget(self) -> int:
        """Bytes of the whole output."""
        plan = self._any
        if self.recipe.under is not None:
            return self.recipe.under
        assert self.recipe.bits is not None
        return int(self.recipe.bits * plan.parameters / 8) + self._beside

    @property
    def _any(self) -> Plan:
        return next(iter(self.plans.values()))

    @property
    def _beside(self) -> int:
        """Bytes that are no tensor's."""
        return self._any.nbytes - sum(tensor.nbytes for tensor in self._any.tensors)

    @property
    def fixed(self) -> int:
        """Bytes of what there is no choice of."""
        open_ = [tensor.nbytes for tensor in self._any.tensors if tensor.name in self.candidates]
        return self._any.nbytes - sum(open_)

    def options(self, losses: Mapping[str, Sequence[float]]) -> dict[str, list[Option]]:
        """Of what is chosen together: by the first tensor's name.

        Args:
            losses: of the candidates of each tensor, in their order. Tensors of which nothing is
                known have the type of which they lose least.
        """
        found: dict[str, list[Option]] = {}
        for first, members in self._together.items():
            types = [
                type_
                for type_ in self.candidates[first]
                if all(type_ in self.candidates[name] for name in members)
            ]
            made = []
            known = [
                dict(zip(self.candidates[name], losses[name], strict=True))
                for name in members
                if name in losses
            ]
            for type_ in types:
                nbytes = sum(self.candidates[name][type_].nbytes for name in members)
                made.append(Option(type_, nbytes, sum(one[type_] for one in known)))
            found[first] = made if known else [max(made, key=lambda one: one.nbytes)]
        return found

    @cached_property
    def _together(self) -> dict[str, list[str]]:
        """Tensors that have one type together, by the first of them."""
        keys: dict[tuple[str, ...], list[str]] = {}
        for name, options in self.candidates.items():
            codings = [tensor.coding for tensor in options.values()]
            weights = [coding.weight for coding in codings if isinstance(coding, Quantized)]
            keys.setdefault(layer_of(weights[0]) if weights else (name,), []).append(name)
        return {names[0]: names for names in keys.values()}

    def recipe_of(self, chosen: Mapping[str, Option]) -> Recipe:
        """What asks for the types that were chosen."""
        overrides = [
            (literal(name), self._spelled(name, option.name))
            for first, option in chosen.items()
            for name in self._together[first]
        ]
        made = replace(self.recipe, overrides=(*overrides, *self.recipe.overrides))
        if is_scheme(made.type):
            return made
        path = made.path(self._any.checkpoint.source)
        return replace(made, type=self._label(chosen), pure=True, output=path)

    def _spelled(self, name: str, type_: str) -> str:
        """The type as an override says it: a fallback by its own name."""
        return type_ if is_scheme(type_) else self.candidates[name][type_].format.lower()

    def _label(self, chosen: Mapping[str, Option]) -> str:
        """The file type whose base most bytes have."""
        sizes: dict[str, int] = {}
        for first, option in chosen.items():
            base = self.candidates[first][option.name].format
            sizes[base] = sizes.get(base, 0) + option.nbytes
        most = max(sizes, key=lambda base: (sizes[base], base))
        return next((kind.name for kind in FILE_TYPES.values() if kind.base == most), "q8_0")


def menu(model: Model, recipe: Recipe, statistics: Statistics) -> Menu:
    """What may be chosen for an output with a budget.

    Raises:
        UsageError: a type's name is not known, or cannot be in such an output.
        PlanError: it cannot be made with one of the types.
    """
    bare = replace(recipe, under=None, bits=None, types=())
    if is_mlx(recipe.type):
        types = tuple(map(find_mlx, recipe.types or OF_MLX))
        plans = {name: make_plan(model, replace(bare, type=name), statistics) for name in types}
    elif is_scheme(recipe.type):
        if kind_of(recipe.type) != "weight-only":
            raise UsageError(
                f"a budget has no meaning for {recipe.type}", "it is for wNa16 and GGUF"
            )
        types = tuple(map(find_scheme, recipe.types or SCHEMES))
        wrong = [name for name in types if name not in WEIGHT_ONLY]
        if wrong:
            raise UsageError(f"{wrong[0]} has other inputs than {recipe.type}", "name wNa16 only")
        plans = {name: make_plan(model, replace(bare, type=name), statistics) for name in types}
    else:
        types = tuple(find_format(name).lower() for name in recipe.types or TYPES)
        plans = {
            name: make_plan(
                model,
                replace(bare, type="q8_0", pure=True, overrides=(*_every(name), *bare.overrides)),
                statistics,
            )
            for name in types
        }
    return Menu(recipe, plans)


def _every(type_: str) -> Overrides:
    """A type for all tensors; where it asks for an importance, the tables that have none get
    another."""
    overrides = (("*", type_),)
    return (*overrides, (TABLES, TABLE)) if type_.upper() in NEED_IMPORTANCE else overrides
