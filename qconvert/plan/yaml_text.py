"""YAML from strangers: plain values only, bounded in size and depth, and where each one stands.

Aliases (which can make a small file huge), tags and merge keys are refused; a key that stands
twice in one mapping is a mistake.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.errors import CheckpointError, UsageError

MAX_BYTES = 256 << 10
MAX_DEPTH = 12
MAX_SCALAR = 4096
"""Characters of one value."""

PLAIN = "a recipe is plain YAML: key: value, and lists with dashes"
STARS = "put a pattern that begins with * between quotes: '*.ffn_down.weight'"

Location = tuple[str | int, ...]
"""Keys and indices from the top, as pydantic names them."""


@dataclass(frozen=True)
class Text:
    """A file of YAML.

    Attributes:
        path: where it is.
        value: what it says.
        root: the same with positions; None where it is empty.
    """

    path: Path
    value: Any
    root: yaml.Node | None

    def line(self, location: Location) -> int:
        """The line, from one, of a key or item, or of the nearest thing around it."""
        return _line(self.root, location) if self.root is not None else 1


def read_yaml(path: Path) -> Text:
    """Read a file.

    Raises:
        UsageError: it cannot be read, is too large, or is not plain YAML.
    """
    text = _read(path)
    try:
        _check_events(path, text)
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        _check_keys(path, root)
        return Text(path, loader.construct_document(root) if root is not None else None, root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        hint = STARS if "alias" in str(error.context) else PLAIN
        raise UsageError(f"{where}: {error.problem or error.context}", hint) from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())[:200]}", PLAIN) from error
    except (ValueError, OverflowError) as error:
        # A number with thousands of digits, the 31st of February.
        raise UsageError(f"{path}: {str(error)[:200]}", PLAIN) from error


def _read(path: Path) -> str:
    try:
        size = file_size(path)
        data = read_bytes_at(path, 0, min(size, MAX_BYTES + 1))
    except CheckpointError as error:
        raise UsageError(error.message, "name a recipe file") from error
    if size > MAX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_BYTES} bytes, and so no recipe")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text, and so no recipe", PLAIN) from error


def _check_events(path: Path, text: str) -> None:
    """Before anything is built of them, and no further than the first that is refused."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        where = f"{path}:{event.start_mark.line + 1 if event.start_mark else 1}"
        if depth > MAX_DEPTH:
            raise UsageError(f"{where}: nested more than {MAX_DEPTH} deep", PLAIN)
        if getattr(event, "anchor", None):
            raise UsageError(f"{where}: aliases and anchors (* and &) are not read", STARS)
        if getattr(event, "tag", None):
            raise UsageError(f"{where}: tags (!) are not read", PLAIN)
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR:
            raise UsageError(f"{where}: a value has more than {MAX_SCALAR} characters")


def _check_keys(path: Path, node: yaml.Node | None) -> None:
    for mapping in _mappings(node):
        seen: set[str] = set()
        for key, _ in mapping.value:
            where = f"{path}:{key.start_mark.line + 1}"
            if key.tag.endswith(":merge"):
                raise UsageError(f"{where}: merge keys (<<) are not read", PLAIN)
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise UsageError(f"{where}: {key.value!r:.80} stands here a second time")
                seen.add(key.value)


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
        for key, value in node.value:
            yield from _mappings(key)
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _mappings(item)


def _line(node: yaml.Node, location: Location) -> int:
    """Follows a location as far as it leads."""
    line = node.start_mark.line + 1
    for step in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(step)), None)
            if pair is None:
                return line
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            if step >= len(node.value):
                return line
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            return line
    return int(line)
