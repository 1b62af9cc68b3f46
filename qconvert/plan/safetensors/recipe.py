"""What is asked of a quantized safetensors directory: a recipe, made once from the options."""

from dataclasses import dataclass

from qconvert.algorithms.ranges import estimator
from qconvert.formats.safetensors.types import Estimator
from qconvert.plan.options import OutputOptions, concerns
from qconvert.plan.overrides import matcher
from qconvert.plan.safetensors.schemes import KEEP, Scheme, find_scheme, kind_of, make_scheme


@dataclass(frozen=True)
class CompressedRecipe:
    """How a model is to be quantized.

    Attributes:
        scheme: of linear weights.
        overrides: schemes by name pattern, None to keep; the last that matches counts.
        keep: patterns of weights that are kept, whatever else is said of them.
        lm_head: quantize the output projection too.
        embeddings: quantize the token embeddings too.
        estimator: of the weights' ranges; None for the usual one.
        allow_nan: go on where weights are NaN or infinite.
    """

    scheme: Scheme
    overrides: tuple[tuple[str, Scheme | None], ...] = ()
    keep: tuple[str, ...] = ()
    lm_head: bool = False
    embeddings: bool = False
    estimator: Estimator | None = None
    allow_nan: bool = False


def compressed_recipe(options: OutputOptions) -> CompressedRecipe:
    """The recipe of an output whose type is a scheme.

    Raises:
        UnsupportedError: an override names no scheme.
        UsageError: an option does not fit, or a pattern is not well formed.
    """
    overrides = []
    for pattern, name in options.overrides:
        matcher(pattern)
        scheme = None if name.lower() == KEEP else _scheme(name, options)
        overrides.append((pattern, scheme))
    for pattern in options.keep:
        matcher(pattern)
    return CompressedRecipe(
        _scheme(options.type, options),
        tuple(overrides),
        options.keep,
        lm_head=options.lm_head,
        embeddings=options.embeddings,
        estimator=_estimator(options),
        allow_nan=options.allow_nan,
    )


def _scheme(name: str, options: OutputOptions) -> Scheme:
    """The scheme with those of the options that concern it.

    An exception of another kind has its own usual ones: stored ranges of inputs, say, are those of
    one kind.
    """
    if kind_of(find_scheme(name)) != kind_of(options.type):
        return make_scheme(name)
    chosen = {
        option: getattr(options, option)
        for option in ("activations", "strategy", "group_size", "asymmetric")
        if concerns(option, name)
    }
    return make_scheme(name, **chosen)


def _estimator(options: OutputOptions) -> Estimator | None:
    if options.weight_range is None:
        return None
    percentile = options.percentile if options.weight_range == "percentile" else None
    return estimator(options.weight_range, percentile)
