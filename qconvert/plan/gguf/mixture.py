"""Which tensor gets which format: a recipe and a model's tensors in, one `Choice` each out.

The outcome is llama-quantize's (src/llama-quant.cpp) for every file type, with these differences,
which are meant: an override changes the tensors that it names and no others (there, a named
tensor drops out of the count that places its neighbours); overrides work with float file types
too; and a type set for the output or the embeddings falls back where the rows do not fit it,
where there the work fails.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from qconvert.errors import PlanError
from qconvert.formats.types import block_sizes
from qconvert.model.mapping import EMBEDDING
from qconvert.model.roles import (
    Role,
    block_number,
    can_be_quantized,
    is_always_f32,
    order_key,
    role_of,
)
from qconvert.plan.gguf.facts import ModelFacts, facts_from_metadata
from qconvert.plan.gguf.recipe import in_formats
from qconvert.plan.gguf.rules import Place, has_coarse_output, mixture_format
from qconvert.plan.gguf.scaled import FORMAT, STAND_IN, lost_scale
from qconvert.plan.overrides import Names, match_last
from qconvert.plan.recipe import Recipe

__all__ = ["Choice", "ModelFacts", "choose_formats", "facts_from_metadata", "fit_to_rows"]

Tensor = tuple[str, tuple[int, ...], str]
"""Name in GGUF, row-major shape, and the source's dtype, as `TensorInfo` has it."""


@dataclass(frozen=True)
class Choice:
    """What a tensor becomes.

    Attributes:
        name: in GGUF.
        format: what is written, "Q5_0".
        wanted: what the recipe asked for, "Q4_K"; another one only where the rows do not fit it.
        reason: why they differ, a few words; else empty.
    """

    name: str
    format: str
    wanted: str
    reason: str = ""

    @property
    def fell_back(self) -> bool:
        return self.format != self.wanted


_FALLBACKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "NVFP4": "Q4_0",
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"), "IQ4_NL"),
    **dict.fromkeys(("IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
}

_FFN = (Role.FFN_UP, Role.FFN_GATE, Role.FFN_DOWN)

_ENDS = (Role.OUTPUT, Role.EMBEDDING)

NEED_IMPORTANCE = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")
"""Formats that are of no use without an importance of the weights."""

# What a tensor that is kept is written as; formats of ggml's blocks stay what they are.
_KEPT = {"F64": "F32", "F32": "F32", "F16": "F16", "BF16": "BF16"}
_KEPT |= {"F8_E4M3": "BF16", "F8_E5M2": "BF16"}


def choose_formats(
    recipe: Recipe,
    facts: ModelFacts,
    tensors: Sequence[Tensor],
    importance_names: Collection[str] | None = None,
    *,
    from_gguf: bool = False,
    elsewhere: Callable[[], Names] = dict,
) -> tuple[Choice, ...]:
    """Chooses every tensor's format, in the order given.

    Args:
        recipe: what the user asks for.
        facts: of the model.
        tensors: all tensors of the output, whether they can be quantized or not.
        importance_names: the tensors that the importance matrix has; None without a matrix.
        from_gguf: the source is a GGUF file, so that tensors that are not quantized stay as they
            are; from elsewhere they become what llama.cpp's converter makes of them.
        elsewhere: gives Hugging Face's names, which patterns may use too.

    Raises:
        UsageError: a type's name is not known, or a pattern is not well formed.
        PlanError: a pattern matches nothing that can be quantized; rows do not fit and the recipe
            has no fallback; or a tensor's type needs an importance that is not there.
    """
    recipe = in_formats(recipe)
    open_tensors = [
        tensor for tensor in tensors if can_be_quantized(tensor[0], tensor[1], facts.architecture)
    ]
    names = [name for name, _, _ in open_tensors]
    embedding = EMBEDDING if EMBEDDING in names else ""
    named, kept = (
        match_last(patterns, names, elsewhere, embedding)
        for patterns in ([pattern for pattern, _ in recipe.overrides], recipe.keep)
    )
    wanted = _wanted_formats(recipe, facts, open_tensors, bool(importance_names), named)
    choices = []
    for name, shape, dtype in tensors:
        if name in kept:
            stays = _kept_format(dtype)
            choices.append(Choice(name, stays, stays))
        elif name in wanted:
            output = wanted[name] == "Q5_K" and has_coarse_output(recipe.file_type)
            second = "Q8_0" if output and role_of(name) in _ENDS else ""
            choices.append(fit_to_rows(name, shape, wanted[name], second))
        else:
            stays = _untouched_format(recipe, name, shape, dtype, from_gguf)
            choices.append(Choice(name, stays, stays))
    every = {name for name, _, _ in tensors}
    choices = [_scaled(choice, facts.architecture, every) for choice in choices]
    _check_fallbacks(recipe, choices)
    _check_importance(recipe, choices, importance_names)
    return tuple(choices)


def fit_to_rows(name: str, shape: tuple[int, ...], wanted: str, second: str = "") -> Choice:
    """The format wanted, or where its block does not divide the rows, `second` or llama.cpp's
    fallback."""
    columns = shape[-1]
    if columns % block_sizes(wanted)[0] == 0:
        return Choice(name, wanted, wanted)
    reason = f"row of {columns} is not a multiple of {block_sizes(wanted)[0]}"
    second = second or _FALLBACKS.get(wanted, "F16")
    if columns % block_sizes(second)[0] != 0:
        second = "F16"
    return Choice(name, second, wanted, reason)


def _scaled(choice: Choice, architecture: str, names: Collection[str]) -> Choice:
    """A choice with another format where llama.cpp would leave out its scale."""
    if choice.format != FORMAT:
        return choice
    reason = lost_scale(choice.name, architecture, names)
    return replace(choice, format=STAND_IN, reason=reason) if reason else choice


def _wanted_formats(
    recipe: Recipe,
    facts: ModelFacts,
    tensors: Sequence[Tensor],
    importance: bool,
    named: Mapping[str, int],
) -> dict[str, str]:
    """What the recipe asks for, by name, of tensors that can be quantized.

    Args:
        named: the number of the override that counts, by name.
    """
    names = [name for name, _, _ in tensors]
    tied = "output.weight" not in names
    mixture = _mixture_formats(recipe, facts, tensors, importance, tied)
    wanted = {}
    for name in names:
        set_by_role = _format_set_by_role(recipe, name, tied, name in named)
        if set_by_role:
            wanted[name] = set_by_role
        elif name in named:
            wanted[name] = recipe.overrides[named[name]][1]
        else:
            wanted[name] = mixture.get(name, recipe.file_type.base)
    return wanted


def _format_set_by_role(recipe: Recipe, name: str, tied: bool, named: bool) -> str | None:
    """The output's or the embeddings' format, where the recipe sets it."""
    role = role_of(name)
    if role is Role.OUTPUT:
        return recipe.output_type
    if role is not Role.EMBEDDING:
        return None
    if name.startswith("per_layer") and named:
        return None  # a large table of its own; whoever names it means it
    return recipe.embedding_type or (recipe.output_type if tied else None)


def _mixture_formats(
    recipe: Recipe, facts: ModelFacts, tensors: Sequence[Tensor], importance: bool, tied: bool
) -> dict[str, str]:
    """What the file type's mixture asks for, by name; empty where there is no mixture."""
    if recipe.pure or not recipe.file_type.quantized:
        return {}
    roles = {name: role_of(name) for name, _, _ in tensors}
    values = sum(role is Role.ATTENTION_V for role in roles.values())
    seen = dict.fromkeys(Role, 0)
    formats = {}
    for name, shape, _ in sorted(tensors, key=lambda tensor: order_key(tensor[0])):
        role = roles[name]
        by_block = role in _FFN and facts.experts > 1
        place = Place(
            index=block_number(name) if by_block else seen[role],
            count=facts.blocks if role in _FFN else values,
            facts=facts,
            importance=importance,
            stacked=len(shape) > 2 and shape[-3] > 1,
            rank=seen[role],
        )
        seen[role] += 1
        formats[name] = mixture_format(recipe.file_type, role, name, place, tied)
    return formats


def _kept_format(dtype: str) -> str:
    if dtype in _KEPT:
        return _KEPT[dtype]
    return "F32" if dtype[0] in "IU" and dtype[1:].isdecimal() else dtype


def _untouched_format(
    recipe: Recipe, name: str, shape: tuple[int, ...], dtype: str, from_gguf: bool
) -> str:
    """What becomes of a tensor that llama-quantize leaves alone."""
    if from_gguf:
        return _kept_format(dtype)
    if is_always_f32(name, shape):
        return "F32"
    if not recipe.file_type.quantized:
        return recipe.file_type.base
    return "F16" if dtype == "F16" else "BF16"


def _check_fallbacks(recipe: Recipe, choices: Iterable[Choice]) -> None:
    fallen = [choice for choice in choices if choice.fell_back]
    if recipe.fallback or not fallen:
        return
    first = ", ".join(f"{c.name} ({c.wanted} -> {c.format}: {c.reason})" for c in fallen[:3])
    more = f" and {len(fallen) - 3} more" if len(fallen) > 3 else ""
    raise PlanError(
        f"{len(fallen)} tensors would fall back to another type: {first}{more}",
        "allow fallbacks, or take a type with blocks of 32: q8_0, q5_1, q5_0, q4_0, iq4_nl",
    )


def _check_importance(
    recipe: Recipe, choices: Iterable[Choice], names: Collection[str] | None
) -> None:
    """The formats of fewest bits, and Q2_K inside q2_k_s, need an importance matrix; output and
    embeddings are exempt."""
    kind = recipe.file_type.name
    needy = (*NEED_IMPORTANCE, "Q2_K") if kind == "q2_k_s" else NEED_IMPORTANCE
    bare = [
        choice.name
        for choice in choices
        if choice.format in needy
        and role_of(choice.name) not in _ENDS
        and choice.name not in (names or ())
    ]
    if bare:
        what = "give a calibration that has them" if names else "run `qconvert calibrate`, give -c"
        other = "q2_k" if kind.startswith(("q2", "iq1", "iq2")) else "q3_k_s"
        raise PlanError(
            f"{kind} needs the importance of {len(bare)} tensors, such as {bare[0]}",
            f"{what} (or --importance FILE), or take {other}",
        )
