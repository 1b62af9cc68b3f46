"""`PATTERN=TYPE`: types and exceptions that the user sets by tensor name.

A pattern is compared with a tensor's whole name in the output, and where it matches none there,
with the names in the other container: GGUF's and Hugging Face's serve both. Letters keep their
case. It is

    blk.*.ffn_down.weight        a glob: * for any run of characters (dots too), ? for one,
                                 [0-3] for one of a set; everything else stands for itself
    /blk\\.(0|1)\\.attn_.*/        between slashes: a regular expression (Python's `re`)

Of several patterns that match a tensor the last one given counts, as with options that are given
twice. A pattern that matches nothing is an error: most often it is a slip of the pen.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches

from qconvert.errors import PlanError, UsageError, shorten

Names = Mapping[str, Sequence[str]]
"""Other names of tensors, by name."""

HEADS = ("output.weight", "lm_head.weight")
"""The output projection, in GGUF and in Hugging Face's files."""

_EXAMPLE = "write PATTERN=TYPE, as in 'blk.*.ffn_down.weight=q6_k'"
_REGEX_CHARACTERS = frozenset("\\()|^$+{}")


def split_override(text: str) -> tuple[str, str]:
    """Pattern and type of 'PATTERN=TYPE'. The last '=' separates, so a pattern may hold one.

    Raises:
        UsageError: there is no '=', no pattern, no type, or the regular expression is broken.
    """
    pattern, equals, name = text.rpartition("=")
    if not equals:
        raise UsageError(f"the override {text!r} has no '='", _EXAMPLE)
    if not pattern or not name:
        missing = "type" if pattern else "pattern"
        raise UsageError(f"the override {text!r} has no {missing}", _EXAMPLE)
    matcher(pattern)
    return pattern, name


def literal(name: str) -> str:
    """The pattern that matches this name and no other."""
    return re.sub(r"([*?[])", r"[\1]", name)


def matcher(pattern: str) -> Callable[[str], bool]:
    """A predicate on tensor names.

    Raises:
        UsageError: the pattern is empty, or is no valid regular expression.
    """
    if not pattern:
        raise UsageError("a pattern is empty", "name the tensors, as in 'blk.*.ffn_down.weight'")
    try:
        compiled = re.compile(_expression(pattern))
    except re.error as error:
        raise UsageError(
            f"{pattern} is not a valid regular expression: {error}",
            "a pattern between slashes is a regular expression; without them it is a glob",
        ) from error
    return lambda name: compiled.fullmatch(name) is not None


def match_last(
    patterns: Sequence[str],
    names: Sequence[str],
    elsewhere: Callable[[], Names] = dict,
    embedding: str = "",
) -> dict[str, int]:
    """For each name that some pattern matches, the index of the last such pattern.

    Args:
        elsewhere: other names by name, all of which a pattern matches that means the tensor; only
            asked for where one matches no name.
        embedding: the name of the token embedding.

    Raises:
        PlanError: a pattern matches none of the names.
    """
    found: dict[str, int] = {}
    for index, pattern in enumerate(patterns):
        matches = matcher(pattern)
        hits = [name for name in names if matches(name)]
        if not hits:
            others = elsewhere()
            hits = [name for name in names if others.get(name) and all(map(matches, others[name]))]
        if not hits and embedding and any(map(matches, HEADS)):
            raise PlanError(
                f"the pattern {pattern!r} matches nothing: this model has no output projection of "
                "its own",
                f"its token embedding takes that place: '{embedding}'",
            )
        if not hits:
            raise PlanError(
                f"the pattern {pattern!r} matches no tensor that can be quantized",
                _hint(pattern, names),
            )
        found.update((name, index) for name in hits)
    return found


def _is_regex(pattern: str) -> bool:
    return len(pattern) > 2 and pattern.startswith("/") and pattern.endswith("/")


def _expression(pattern: str) -> str:
    return pattern[1:-1] if _is_regex(pattern) else fnmatch.translate(pattern)


def _hint(pattern: str, names: Iterable[str]) -> str:
    if not _is_regex(pattern) and _REGEX_CHARACTERS & set(pattern):
        return f"for a regular expression write it between slashes: '/{pattern}/'"
    names = tuple(names)
    inside = [name for name in names if pattern in name]
    if inside:
        return f"a pattern matches the whole name; '*{pattern}*' means {shorten(inside)}"
    letters = re.sub(r"[*?/\\]", "", pattern)
    near = get_close_matches(letters, names, n=3, cutoff=0.4) or list(names[:3])
    return f"tensors are named like {', '.join(near)}" if near else "there are no such tensors"
