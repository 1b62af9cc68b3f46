"""Which scheme each weight gets: the recipe, its exceptions, and what the weights allow.

Serving engines join some layers into one (query, key and value; gate and up; the experts of a
layer): these share a scheme, and where one of them needs another, all of them get it.

Where rows do not fit, integers take the largest smaller group that divides them, float8 in blocks
a scale for each row, and float4, which has one size of groups, leaves them as they are. GPTQ's and
AWQ's configurations name one size of groups: there all layers take that which divides all rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qconvert.errors import PlanError
from qconvert.formats.safetensors.types import ActivationFormat, WeightFormat
from qconvert.model.open import Model
from qconvert.model.roles import Role
from qconvert.model.weights import Weight
from qconvert.plan.names import names_in_gguf
from qconvert.plan.overrides import match_last
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.recipe import exceptions, scheme_of
from qconvert.plan.safetensors.schemes import GROUP_SIZES, Scheme, embedding_scheme
from qconvert.plan.statistics import Ranges

JOINED = {"attn_q": "attn", "attn_k": "attn", "attn_v": "attn", "ffn_gate": "ffn", "ffn_up": "ffn"}


@dataclass(frozen=True)
class Choice:
    """What becomes of a weight.

    Attributes:
        scheme: None where it is kept.
        wanted: what the recipe asked for.
        reasons: why they differ; empty if they do not.
    """

    weight: Weight
    scheme: Scheme | None
    wanted: Scheme | None
    reasons: tuple[str, ...] = ()


def choose(model: Model, recipe: Recipe, ranges: Ranges | None) -> list[Choice]:
    """The choice for every weight, in order.

    Args:
        ranges: of inputs, by GGUF name, where some are to be static; None in it makes them
            dynamic. Without any at all, all that shall be static is planned so.

    Raises:
        PlanError: a pattern matches nothing, an exception cannot be made, or a range is missing.
    """
    wanted = _wanted(model, recipe)
    choices = [Choice(weight, None, None) for weight in model.weights]
    index = {weight.name: number for number, weight in enumerate(model.weights)}
    usual = scheme_of(recipe)
    alike = [weight for weight in model.weights if wanted.get(weight.name)]
    whole = fit(usual, alike, ranges) if usual.is_older and alike else None
    for members in _joined(model.weights, wanted, apart=usual.is_plain):
        _check_alike(members, wanted)
        own = wanted[members[0].name]
        scheme, reasons = _in_words(whole, own, members) if whole else fit(own, members, ranges)
        for weight in members:
            choices[index[weight.name]] = Choice(weight, scheme, wanted[weight.name], reasons)
    return choices


def _wanted(model: Model, recipe: Recipe) -> dict[str, Scheme | None]:
    """The scheme of each weight that may have one."""
    open_ = [weight for weight in model.weights if weight.quantizable]
    names = [weight.name for weight in open_]
    usual, named = scheme_of(recipe), exceptions(recipe)
    every = [weight.name for weight in model.weights]
    embedding = next((one.name for one in open_ if one.role is Role.EMBEDDING), "")
    found, kept = (
        match_last(patterns, among, lambda: names_in_gguf(model), embedding)
        for patterns, among in (([pattern for pattern, _ in named], names), (recipe.keep, every))
    )
    wanted: dict[str, Scheme | None] = {}
    for weight in open_:
        scheme = _usual(weight, recipe, usual)
        if weight.name in found:
            scheme = named[found[weight.name]][1]
        if weight.name in kept:
            scheme = None
        if scheme is not None and weight.role is Role.EMBEDDING and not scheme.is_plain:
            scheme = _check_embedding(weight, scheme, model.tied, weight.name in found)
        wanted[weight.name] = scheme
    return wanted


def _usual(weight: Weight, recipe: Recipe, scheme: Scheme) -> Scheme | None:
    if weight.role is Role.OUTPUT:
        return scheme if recipe.lm_head else None
    if weight.role is Role.EMBEDDING:
        own = scheme if scheme.is_plain else embedding_scheme()
        return own if recipe.embeddings else None
    return scheme


def _check_embedding(weight: Weight, scheme: Scheme, tied: bool, named: bool) -> Scheme:
    if tied:
        raise PlanError(
            f"{weight.name} is the output projection too, and transformers runs quantized "
            "embeddings only where the two are apart",
            "leave the embeddings as they are",
        )
    if named and (scheme.weights.bits, scheme.weights.strategy, scheme.weights.type) != (
        8,
        "channel",
        "int",
    ):
        raise PlanError(
            f"{weight.name}: transformers runs embeddings of int8 alone, not of {scheme.name}",
            f"write '{weight.name}=w8a16'",
        )
    return embedding_scheme()


def _joined(
    weights: Sequence[Weight], wanted: Mapping[str, Scheme | None], *, apart: bool
) -> list[tuple[Weight, ...]]:
    """The weights that have one scheme together, most of them alone; where no engine knows of
    schemes, all of them."""
    groups: dict[tuple[str, ...], list[Weight]] = {}
    for weight in weights:
        if weight.name in wanted:
            groups.setdefault((weight.name,) if apart else layer_of(weight), []).append(weight)
    return [tuple(members) for members in groups.values()]


def layer_of(weight: Weight) -> tuple[str, ...]:
    """Equal for weights that have one scheme."""
    kind = weight.gguf.split(".")[-2]
    if weight.expert:
        return str(weight.block), "experts"
    if kind in JOINED:
        return str(weight.block), JOINED[kind]
    return (weight.name,)


def peak_key(weight: Weight) -> tuple[str, ...]:
    """Equal for weights whose scales are drawn from one largest value: what engines multiply as
    one matrix."""
    kind = weight.gguf.split(".")[-2].removesuffix("_exps")
    if kind in JOINED:
        return str(weight.block), JOINED[kind], str(weight.matrix)
    return (weight.name,)


def _check_alike(members: Sequence[Weight], wanted: Mapping[str, Scheme | None]) -> None:
    """Refuse exceptions that take a layer of serving engines apart."""
    first = members[0]
    for other in members[1:]:
        if wanted[other.name] != wanted[first.name]:
            short, long = (_name(wanted[weight.name]) for weight in (first, other))
            raise PlanError(
                f"{first.name} would be {short} and {other.name} {long}, but serving engines run "
                "them as one layer",
                "let the pattern match both, or neither",
            )


def _in_words(
    whole: tuple[Scheme | None, tuple[str, ...]], wanted: Scheme | None, members: Sequence[Weight]
) -> tuple[Scheme | None, tuple[str, ...]]:
    """What was found for all layers, for those of them that fill words of 32 bits."""
    scheme, reasons = whole
    if wanted is None or scheme is None:
        return None, reasons if wanted else ()
    for weight in members:
        for size, what in zip(weight.matrix_map.shape, ("rows", "columns"), strict=True):
            if size * scheme.weights.bits % 32:
                return None, (f"{size} {what} fill no words of 32 bits",)
    return scheme, reasons


def _name(scheme: Scheme | None) -> str:
    return scheme.name if scheme else "kept"


def fit(
    scheme: Scheme | None, members: Sequence[Weight], ranges: Ranges | None
) -> tuple[Scheme | None, tuple[str, ...]]:
    """The scheme that the members can have, and why it is another."""
    if scheme is None:
        return None, ()
    reasons: list[str] = []
    shapes = [weight.matrix_map.shape for weight in members]
    columns = sorted({shape[-1] for shape in shapes})
    form = scheme.weights
    if form.strategy == "group" and any(size % (form.group_size or 1) for size in columns):
        size = next(size for size in columns if size % (form.group_size or 1))
        reason = f"rows of {size} are no multiple of {form.group_size}"
        smaller = _smaller_group(form, columns)
        if smaller is None:
            return None, (reason,)
        reasons.append(reason)
        scheme = replace(scheme, weights=smaller)
    if form.block is not None:
        reason = _misfit(form.block, shapes)
        if reason:
            reasons.append(reason)
            scheme = Scheme(
                scheme.name,
                WeightFormat(form.layout, form.type, form.bits, "channel"),
                ActivationFormat("float", 8, "token", True),
            )
    if scheme.is_static:
        reason = _dynamic_reason(scheme, members, ranges)
        if reason:
            reasons.append(reason)
            scheme = replace(scheme, inputs=_dynamic(scheme.inputs))
    return scheme, tuple(reasons)


def _smaller_group(form: WeightFormat, columns: Sequence[int]) -> WeightFormat | None:
    """The same with a group that divides all rows; None where the layout has one size alone."""
    if form.type == "float":
        return None
    for size in GROUP_SIZES:
        if size < (form.group_size or 0) and not any(width % size for width in columns):
            return replace(form, group_size=size)
    return replace(form, strategy="channel", group_size=None)


def _misfit(block: tuple[int, int], shapes: Sequence[tuple[int, ...]]) -> str:
    """Why blocks do not fit; joined layers are cut between rows of blocks."""
    for rows, columns in shapes:
        if columns % block[1]:
            return f"rows of {columns} are no multiple of {block[1]}"
        if len(shapes) > 1 and rows % block[0]:
            return f"{rows} rows are no multiple of {block[0]}, and engines join the layer"
    return ""


def _dynamic(inputs: ActivationFormat | None) -> ActivationFormat | None:
    return inputs and replace(inputs, strategy="token", dynamic=True)


def _dynamic_reason(scheme: Scheme, members: Sequence[Weight], ranges: Ranges | None) -> str:
    """Why ranges are not stored.

    Raises:
        PlanError: a range is missing.
    """
    if members[0].expert and scheme.weights.strategy != "tensor":
        return "engines run such experts with a range for each token alone"
    if ranges is None:
        return ""
    for weight in members:
        if weight.gguf not in ranges:
            raise PlanError(
                f"the calibration knows no input of {weight.name}",
                "static activations need a calibration of this model: qconvert calibrate",
            )
    if any(ranges[weight.gguf] is None for weight in members):
        return "one range for all tokens would lose far more than one for each"
    return ""
