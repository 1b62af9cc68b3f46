"""Writing recipes: only what differs from the defaults, in one order, with comments on top."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from qconvert import __version__
from qconvert.containers.sizes import write_size
from qconvert.plan.document import Document, Output
from qconvert.plan.recipe import DEFAULTS, Recipe, concerns

PATHS = ("output", "folder", "calibration", "importance")
SIZES = ("split_max_size", "max_shard_size", "under")
WIDTH = 96


def document_of(outputs: Sequence[Recipe]) -> Document:
    """The recipe that asks for these outputs; what they have in common stands above the list."""
    if len(outputs) == 1:
        return Document.model_construct(**_said(outputs[0]))
    shared = {name: value for name in DEFAULTS if (value := _shared(outputs, name)) is not None}
    lines = [Output.model_construct(**_without(_said(one), shared)) for one in outputs]
    return Document.model_construct(**_values(shared), outputs=tuple(lines))


def write_document(document: Document, folder: Path, comments: Sequence[str] = ()) -> str:
    """The text of a recipe file.

    Args:
        folder: where the file will be; paths in it are written as seen from there.
        comments: lines to put on top.
    """
    head = [f"A recipe of qconvert {__version__}: qconvert quantize MODEL --recipe THIS_FILE"]
    lines = [f"# {_plain(line)}".rstrip() for line in (*head, *comments)]
    data = _plain_settings(document, folder)
    if document.outputs is not None:
        data["outputs"] = [_plain_output(output, folder) for output in document.outputs]
    return "\n".join(lines) + "\n\n" + _dump(data)


def _dump(data: dict[str, Any]) -> str:
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=WIDTH)
    if yaml.safe_load(text) != data:
        # Rare characters (U+0085) do not come back unless they are escaped.
        text = yaml.safe_dump(data, sort_keys=False, width=WIDTH)
    return str(text)


def _plain_output(output: Output, folder: Path) -> str | dict[str, Any]:
    data = _plain_settings(output, folder)
    return str(data["type"]) if list(data) == ["type"] else data


def _plain_settings(settings: Document | Output, folder: Path) -> dict[str, Any]:
    """What was said, as YAML has it."""
    said = [name for name in ("type", *DEFAULTS) if name in settings.model_fields_set]
    return {name: _written(name, getattr(settings, name), folder) for name in said}


def _written(name: str, value: Any, folder: Path) -> Any:
    if name in PATHS and value is not None:
        return Path(os.path.relpath(value, folder)).as_posix()
    if name in SIZES and value is not None:
        return write_size(value)
    return list(value) if isinstance(value, tuple) else value


def _said(options: Recipe) -> dict[str, Any]:
    """What differs from the defaults, and has a meaning."""
    values = {name: getattr(options, name) for name in DEFAULTS if concerns(name, options.type)}
    said = {name: value for name, value in values.items() if value != DEFAULTS[name]}
    return {"type": options.type, **_values(said)}


def _values(said: Mapping[str, Any]) -> dict[str, Any]:
    """As the document has them: overrides are a mapping, of which the last one counts."""
    read: dict[str, Callable[[Any], Any]] = {"overrides": _mapping}
    return {name: read[name](value) if name in read else value for name, value in said.items()}


def _mapping(overrides: Sequence[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pattern, name in overrides:
        found.pop(pattern, None)
        found[pattern] = name
    return found


def _shared(outputs: Sequence[Recipe], name: str) -> Any:
    """What all outputs that an option concerns say alike, if there are several and it differs
    from the default; else None."""
    if name == "output":
        return None
    values = [getattr(one, name) for one in outputs if concerns(name, one.type)]
    same = len(values) > 1 and all(value == values[0] for value in values)
    return values[0] if same and values[0] != DEFAULTS[name] else None


def _without(said: dict[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in shared}


def _plain(line: str) -> str:
    return "".join(c if c.isprintable() else " " for c in line)
