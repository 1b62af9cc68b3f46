"""A recipe file: everything that the options of `quantize` say, in YAML.

    type: q4_k_m                      calibration: calib.safetensors
    calibration: calib.safetensors    outputs:
    overrides:                          - q4_k_m
      blk.*.ffn_down.weight: q6_k       - type: w8a8
                                          smooth: auto

The keys are those of `Recipe`. What stands above `outputs` holds for all of them that it
concerns, and what an output says itself replaces it. Relative paths begin at the recipe's folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)

from qconvert.algorithms.smooth import is_alpha
from qconvert.containers.sizes import parse_size
from qconvert.errors import QconvertError, UsageError
from qconvert.formats.safetensors.types import PERCENTILES, EstimatorName
from qconvert.plan.gguf.file_types import find_format
from qconvert.plan.overrides import matcher
from qconvert.plan.recipe import CONCERNS, SPOKEN, CacheType, Recipe, concerns
from qconvert.plan.safetensors.schemes import (
    KEEP,
    find_mlx,
    find_scheme,
    find_type,
    find_types,
    is_mlx,
    is_scheme,
)
from qconvert.plan.yaml_text import Location, Text, read_yaml


def _path(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be a path")
    folder = (info.context or {}).get("folder", Path())
    try:
        return folder / Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"must be a path, and {value!r:.40} begins with no user's name") from error


def _size(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("must be a size, such as 5G or 500M")
    try:
        return parse_size(value)
    except UsageError as error:
        raise ValueError(f"must be a size, such as 5G or 500M, and not {value!r:.40}") from error


def _smooth(value: Any) -> Any:
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if value != "auto" and not (number and is_alpha(value)):
        raise ValueError("must be a number from 0 to 1, or auto")
    return value if value == "auto" else float(value)


def _named(value: Any) -> Any:
    """An output may be no more than its type."""
    return {"type": value} if isinstance(value, str) else value


PathField = Annotated[Path, BeforeValidator(_path)]
SizeField = Annotated[int, BeforeValidator(_size)]
SmoothField = Annotated[float | Literal["auto"], BeforeValidator(_smooth)]
TypeField = Annotated[str, AfterValidator(lambda name: _spelled(find_type, name))]
TypesField = Annotated[str, AfterValidator(lambda name: _spelled(find_any, name))]
FormatField = Annotated[str, AfterValidator(lambda name: _spelled(find_format, name))]
PatternField = Annotated[str, AfterValidator(lambda pattern: _pattern(pattern))]


class Settings(BaseModel):
    """What an output can say, beside its type; the fields of `Recipe`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    calibration: PathField | None = None
    importance: PathField | None = None
    folder: PathField | None = None
    overrides: dict[PatternField, str] = Field(default_factory=dict)
    keep: tuple[PatternField, ...] = Field(default=(), strict=False)
    feedback: bool = True
    allow_nan: bool = False
    pure: bool = False
    output_type: FormatField | None = None
    embedding_type: FormatField | None = None
    ignore: tuple[PatternField, ...] = Field(default=(), strict=False)
    vocabulary: bool = True
    fallback: bool = True
    split_max_size: SizeField | None = None
    activations: Literal["dynamic", "static"] = "dynamic"
    strategy: Literal["tensor", "channel", "block"] | None = None
    group_size: Literal[32, 64, 128, "channel"] | None = None
    asymmetric: bool = False
    weight_range: EstimatorName | None = None
    activation_range: EstimatorName | None = None
    percentile: float = Field(default=99.99, gt=PERCENTILES[0], le=PERCENTILES[1])
    smooth: SmoothField | None = None
    strict_static: bool = False
    lm_head: bool = False
    embeddings: bool = False
    kv: CacheType | None = None
    max_shard_size: SizeField | None = None
    under: SizeField | None = None
    bits: float | None = Field(default=None, gt=0, le=32)
    types: tuple[TypesField, ...] = Field(default=(), strict=False)


class Output(Settings):
    """One output."""

    type: TypeField
    output: PathField | None = None


class Document(Settings):
    """A recipe: either the one output itself, or a list of outputs under what they share."""

    type: TypeField | None = None
    output: PathField | None = None
    outputs: tuple[Annotated[Output, BeforeValidator(_named)], ...] | None = Field(
        default=None, strict=False
    )


def read_document(path: Path) -> Document:
    """Read and check a recipe.

    Raises:
        UsageError: it cannot be read, or something in it is unknown, missing or impossible; one
            line with the file, the line in it and the key.
    """
    text = read_yaml(path)
    if not isinstance(text.value, dict):
        what = "is empty" if text.value is None else "is no list of keys and values"
        raise UsageError(f"{path} {what}", "write at least a type, as in 'type: q4_k_m'")
    try:
        document = Document.model_validate(text.value, context={"folder": path.parent})
    except ValidationError as error:
        raise _explain(text, error) from error
    for location, message, hint in _faults(document):
        raise _fault(text, location, message, hint)
    return document


def options_of(document: Document, types: Sequence[str] = ()) -> tuple[Recipe, ...]:
    """The options of each output.

    Args:
        types: instead of the recipe's own outputs; one that it lists keeps what it says there.

    Raises:
        UsageError: one of `types` is not known.
    """
    shared = _said(document)
    listed = document.outputs
    if listed is None:
        listed = () if document.type is None else (Output(type=document.type),)
    if not types:
        return tuple(_options(output.type, shared | _said(output)) for output in listed)
    found = []
    for name in find_types(types):
        own = [_said(output) for output in listed if output.type == name] or [{}]
        found += [_options(name, shared | said) for said in own]
    return tuple(found)


def _said(settings: Settings) -> dict[str, Any]:
    names = settings.model_fields_set - {"type", "outputs"}
    return {name: getattr(settings, name) for name in type(settings).model_fields if name in names}


def _options(type_: str, said: Mapping[str, Any]) -> Recipe:
    values = {name: value for name, value in said.items() if concerns(name, type_)}
    if "overrides" in values:
        pairs = values["overrides"].items()
        values["overrides"] = tuple((pattern, name.lower()) for pattern, name in pairs)
    return Recipe(type_, **values)


Fault = tuple[Location, str, str]
"""Where, what is wrong, and what would be right."""


def _faults(document: Document) -> Iterator[Fault]:
    """What no key shows by itself."""
    said = _said(document)
    if document.outputs is None:
        if document.type is None:
            yield (), "there is neither a type nor outputs", "write at least 'type: q4_k_m'"
        else:
            yield from _faults_of(document.type, said, said, ())
        return
    for key in ("type", "output"):
        if key in document.model_fields_set:
            yield (key,), f"{key} and outputs exclude each other", "move it into the list"
    if not document.outputs:
        yield ("outputs",), "the list is empty", "write at least '- q4_k_m'"
    for name in said:
        if not any(concerns(name, output.type) for output in document.outputs):
            yield (name,), "concerns none of the outputs", _whose(name)
    for index, output in enumerate(document.outputs):
        own = _said(output)
        yield from _faults_of(output.type, own, said | own, ("outputs", index))


def _faults_of(
    type_: str, own: Mapping[str, Any], all_: Mapping[str, Any], where: Location
) -> Iterator[Fault]:
    for name in own:
        if not concerns(name, type_):
            yield (*where, name), f"has no meaning for {type_}", _whose(name)
    if all_.keys() >= {"under", "bits"}:
        yield (*where, "bits"), "under and bits are two budgets", "give one of them"
    find = find_mlx if is_mlx(type_) else find_scheme if is_scheme(type_) else find_format
    for pattern, value in all_.get("overrides", {}).items():
        if value.lower() == KEEP and is_scheme(type_):
            continue
        try:
            find(value)
        except QconvertError as error:
            prefix = where if "overrides" in own else ()
            message = f"{error.message} for {type_}"
            yield (*prefix, "overrides", pattern), message, error.hint


def _whose(name: str) -> str:
    return f"it is an option of {', '.join(SPOKEN[kind] for kind in CONCERNS[name])}"


def _spelled(find: Any, name: str) -> str:
    """The name as `find` spells it, in small letters."""
    try:
        return str(find(name)).lower()
    except QconvertError as error:
        raise ValueError(f"{error.message}; {error.hint}") from error


def find_any(name: str) -> str:
    """A format of GGUF, a scheme or a type of MLX, as overrides and `types` have them, in small
    letters.

    Raises:
        UsageError: there is none.
    """
    return name.lower() if is_scheme(name) else find_format(name).lower()


def _pattern(pattern: str) -> str:
    try:
        matcher(pattern)
    except UsageError as error:
        raise ValueError(error.message) from error
    return pattern


MEANINGS = {
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "dict_type": "must be a list of 'pattern: type'",
    "tuple_type": "must be a list",
    "model_type": "must be a type, or a list of keys and values",
    "missing": "is missing",
    "invalid_key": "a key must be text",
}


def _explain(text: Text, error: ValidationError) -> UsageError:
    """The first thing that is wrong, in the order of the file."""
    first = min(error.errors(), key=lambda one: (text.line(one["loc"]), one["type"] == "missing"))
    location, kind = first["loc"], first["type"]
    if kind == "extra_forbidden":
        known = Output.model_fields if len(location) > 1 else Document.model_fields
        name = str(location[-1])
        near = get_close_matches(name, known, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
        return _fault(text, location, "unknown key", hint)
    message = MEANINGS.get(kind) or first["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "must be")
    message, _, hint = message.partition("; ")
    return _fault(text, location, message, hint)


def _fault(text: Text, location: Location, message: str, hint: str) -> UsageError:
    key = ".".join(str(step) for step in location if step != "[key]")
    name = f"{key}: " if key else ""
    return UsageError(f"{text.path}:{text.line(location)}: {name:.120}{message:.300}", hint)
