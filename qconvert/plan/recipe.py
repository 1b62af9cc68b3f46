"""What is asked of one output: the options of `quantize`, from the command line or a document.

Both make a `Recipe`, and everything behind reads them from there. An option that does not
concern a type has no effect on it, so that several outputs can share their options; one that
concerns none of the outputs is a mistake, which `check_used` reports.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from qconvert.containers.place import check_output
from qconvert.containers.sizes import write_size
from qconvert.errors import UsageError
from qconvert.formats.safetensors.types import EstimatorName
from qconvert.plan.gguf.file_types import FileType, find_file_type
from qconvert.plan.safetensors.schemes import KEEP, KINDS, Kind, is_mlx, is_scheme, kind_of

Overrides = tuple[tuple[str, str], ...]
"""Patterns and types."""

CacheType = Literal["fp8", "int8"]
"""What keys and values are kept in."""

CACHE_TYPES: tuple[CacheType, ...] = get_args(CacheType)


@dataclass(frozen=True)
class Recipe:
    """How one output is to be made. None leaves the choice to the type.

    Attributes:
        type: a GGUF file type, a scheme of safetensors or a type of MLX, in small letters.
        output: the file (GGUF) or the directory (safetensors).
        folder: where the output goes under its default name, if `output` does not say.
        calibration: what `qconvert calibrate` wrote.
        importance: an importance matrix, for the weights; by default the calibration's.
        overrides: (pattern, format or scheme); the last that matches counts.
        keep: patterns of tensors that stay as they are.
        feedback: quantize with what a calibration's tokens show, by running the model on them.
        allow_nan: go on where weights are NaN or infinite; clip what a format cannot hold.

        pure: GGUF: no mixture.
        output_type: GGUF: the format of the output projection.
        embedding_type: GGUF: the format of the token embeddings.
        ignore: GGUF: patterns of tensors that may be left out.
        vocabulary: GGUF: refuse a model that has no tokenizer.
        fallback: GGUF: take another format where rows do not divide into blocks; else refuse.
        split_max_size: GGUF: bytes that a shard may have.

        activations: w8a8, fp8: a scale for each token, or one stored for each layer.
        strategy: fp8: which weights share a scale.
        group_size: integers of less than 8 bits: weights of a row that share a scale; but for mlxN
            "channel" for the whole row. lutN: rows that share their values.
        asymmetric: integers: with zero points.
        weight_range: safetensors: the estimator of the weights' ranges.
        activation_range: w8a8, fp8: that of static activations' ranges.
        percentile: of absolute values, for the estimators of that name.
        smooth: w8a8: SmoothQuant's alpha, "auto" for each layer's own.
        strict_static: w8a8, fp8: static ranges even where they lose much.
        lm_head: safetensors: quantize the output projection too.
        embeddings: safetensors: quantize the token embeddings too.
        kv: safetensors: what keys and values are kept in, with scales from the calibration.
        max_shard_size: safetensors: bytes that a shard may have.

        under: GGUF, wNa16, MLX: bytes that the output may have; each tensor's type is chosen for
            that.
        bits: the same in bits for each weight, over all of them.
        types: among which that is done.

    Where several speak of one tensor of a GGUF file: `keep`, then `output_type` and
    `embedding_type`, then `overrides`, then `pure`, then the mixture.
    """

    type: str
    output: Path | None = None
    folder: Path | None = None
    calibration: Path | None = None
    importance: Path | None = None
    overrides: Overrides = ()
    keep: tuple[str, ...] = ()
    feedback: bool = True
    allow_nan: bool = False

    pure: bool = False
    output_type: str | None = None
    embedding_type: str | None = None
    ignore: tuple[str, ...] = ()
    vocabulary: bool = True
    fallback: bool = True
    split_max_size: int | None = None

    activations: Literal["dynamic", "static"] = "dynamic"
    strategy: Literal["tensor", "channel", "block"] | None = None
    group_size: int | Literal["channel"] | None = None
    asymmetric: bool = False
    weight_range: EstimatorName | None = None
    activation_range: EstimatorName | None = None
    percentile: float = 99.99
    smooth: float | Literal["auto"] | None = None
    strict_static: bool = False
    lm_head: bool = False
    embeddings: bool = False
    kv: CacheType | None = None
    max_shard_size: int | None = None

    under: int | None = None
    bits: float | None = None
    types: tuple[str, ...] = ()

    @property
    def has_budget(self) -> bool:
        return self.under is not None or self.bits is not None

    @property
    def budget(self) -> dict[str, str]:
        """What the header of an output says of its budget; empty where it has none."""
        if self.under is not None:
            return {"qconvert.budget": f"at most {self.under} bytes"}
        return {} if self.bits is None else {"qconvert.budget": f"{self.bits:g} bits per weight"}

    @property
    def file_type(self) -> FileType:
        """GGUF: the base format and its mixture.

        Raises:
            UsageError: there is no such type.
        """
        return find_file_type(self.type)

    def path(self, source: str) -> Path:
        """Where the output goes: as named, or NAME-TYPE in its folder.

        Args:
            source: what the checkpoint is called, "models/SmolLM2" or "org/name@revision".
        """
        if self.output is not None:
            return self.output
        name = model_name(source)
        ending = self.type if is_scheme(self.type) else f"{self.type.upper()}.gguf"
        if self.has_budget:
            size = f"{self.bits:g}bpw" if self.under is None else f"{write_size(self.under)}B"
            ending = f"{self.type}-{size}" if is_scheme(self.type) else f"{size}.gguf"
        return (self.folder or Path()) / f"{name}-{ending}"


def model_name(source: str) -> str:
    """What outputs are called after: the last part of a checkpoint's name, without revision,
    ending and number of a shard."""
    last = re.split(r"[/:\\]", source.partition("@")[0].rstrip("/"))[-1]
    name = re.sub(r"\.(gguf|safetensors|bin)$", "", last)
    return re.sub(r"-\d{5}-of-\d{5}$", "", name).strip(".") or "model"


def calibration_path(source: str, folder: Path | None = None) -> Path:
    """NAME.calib.safetensors, in the current directory if no folder is named."""
    return (folder or Path()) / f"{model_name(source)}.calib.safetensors"


DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in fields(Recipe) if field.name != "type"
}

SAFETENSORS: tuple[Kind, ...] = ("int8", "fp8", "w4a8", "weight-only", "fp4")

OLDER: tuple[Kind, ...] = ("gptq", "awq")
"""Layouts that store linear layers in one way."""

OF_MLX: tuple[Kind, ...] = ("mlx", "mlx-float")

BUDGET: tuple[Kind, ...] = ("gguf", "weight-only", *OF_MLX)

CONCERNS: dict[str, tuple[Kind, ...]] = {
    "pure": ("gguf",),
    "output_type": ("gguf",),
    "embedding_type": ("gguf",),
    "vocabulary": ("gguf",),
    "fallback": ("gguf",),
    "split_max_size": ("gguf",),
    "activations": ("int8", "fp8"),
    "strategy": ("fp8",),
    "group_size": ("weight-only", "w4a8", *OLDER, "lut", "mlx"),
    "asymmetric": ("int8", "weight-only", "gptq"),
    "weight_range": (*SAFETENSORS, *OLDER, *OF_MLX),
    "activation_range": ("int8", "fp8"),
    "percentile": (*SAFETENSORS, *OLDER),
    "smooth": ("int8",),
    "strict_static": ("int8", "fp8"),
    "lm_head": (*SAFETENSORS, "lut"),
    "embeddings": (*SAFETENSORS, "lut"),
    "kv": SAFETENSORS,
    "max_shard_size": (*SAFETENSORS, *OLDER, "lut", *OF_MLX),
    "under": BUDGET,
    "bits": BUDGET,
    "types": BUDGET,
}
"""The kinds of types that an option concerns; what is not listed concerns all."""

SPOKEN: dict[Kind, str] = {
    "gguf": "GGUF",
    "int8": "w8a8",
    "fp8": "fp8",
    "weight-only": "wNa16",
    "fp4": "nvfp4a16, nvfp4a4, mxfp4a16 and mxfp4a4",
    "w4a8": "w4a8 and w4afp8",
    "gptq": "gptqN",
    "awq": "awq4",
    "lut": "lutN",
    "mlx": "mlxN",
    "mlx-float": "mlx-mxfp4, mlx-mxfp8 and mlx-nvfp4",
}


def concerns(option: str, type_: str) -> bool:
    """Whether an option has an effect on outputs of a type."""
    return kind_of(type_) in CONCERNS.get(option, KINDS)


def check_used(given: Iterable[str], types: Sequence[str]) -> None:
    """Refuse options that none of the outputs heeds.

    Args:
        given: names of options, as `Recipe` spells them.
        types: of the outputs.

    Raises:
        UsageError: an option concerns none of the types.
    """
    for option in given:
        if not any(concerns(option, type_) for type_ in types):
            whose = ", ".join(SPOKEN[kind] for kind in CONCERNS[option])
            raise UsageError(
                f"{option.replace('_', '-')} has no meaning for {', '.join(types)}",
                f"it is an option of {whose}",
            )


def with_given(outputs: Sequence[Recipe], given: Mapping[str, Any]) -> tuple[Recipe, ...]:
    """Outputs with what the command line said, each with the options that concern it.

    Args:
        given: values by option's name, only those that the user gave.

    Raises:
        UsageError: an option concerns none of the outputs.
    """
    check_used(given, [output.type for output in outputs])
    several = len({container_of(output.type) for output in outputs}) > 1
    made = []
    for output in outputs:
        own = {key: given[key] for key in given if concerns(key, output.type)}
        if several and "overrides" in own:
            own["overrides"] = _meant_for(output.type, own["overrides"])
        made.append(replace(output, **own))
    return tuple(made)


def container_of(type_: str) -> str:
    """Whose types can stand beside each other in one output."""
    if kind_of(type_) in (*OLDER, "lut"):
        return kind_of(type_)
    return "mlx" if is_mlx(type_) else "safetensors" if is_scheme(type_) else "gguf"


def _meant_for(type_: str, overrides: Overrides) -> Overrides:
    """Of overrides for outputs of several containers, those whose type is one of the output's."""
    own = container_of(type_)
    return tuple(
        (pattern, name)
        for pattern, name in overrides
        if (own != "gguf" if name.lower() == KEEP else container_of(name) == own)
    )


def placed(asked: tuple[Recipe, ...], output: str | None) -> tuple[Recipe, ...]:
    """The outputs with what `-o` says of their places: a file where it ends in .gguf, else a folder
    that gets NAME-TYPE, or is filled by one directory of safetensors.

    Raises:
        UsageError: it is of no use for these types.
    """
    if output is None:
        return asked
    path = Path(output)
    alone = len(asked) == 1
    if output.endswith(".gguf") or output == "-":
        if not alone:
            raise UsageError(
                f"{path} is a file, and {len(asked)} outputs need a folder", "name one"
            )
        if is_scheme(asked[0].type):
            raise UsageError(f"{asked[0].type} makes a directory, not {path}", "name one with -o")
        check_output(path)
        return (replace(asked[0], output=path),)
    if path.exists() and not path.is_dir():
        raise UsageError(
            f"{path} is a file, and a path that does not end in .gguf is a folder",
            "name a folder, or a file that ends in .gguf",
        )
    if alone and is_scheme(asked[0].type):
        return (replace(asked[0], output=path),)
    return tuple(
        replace(one, folder=path, output=path / one.output.name if one.output else None)
        for one in asked
    )
