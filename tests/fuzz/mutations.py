"""Ways to damage a file: its bytes, or what its JSON says."""

import json
import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from checkpoint.test_mutations import cut, flip, json_words, overwrite

Mutate = Callable[[random.Random, bytes], bytes]

ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 255, 2**31, 2**53, 2**64, 10**400, 1.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "\x1b[31m\x9b\u202e", "x" * 3000, "\ud800", "\0", "../x"),
    *("=1+1", "Sequence", "llama3", "yarn", "BPE", [], {}, [[]], [None], {"type": {}}, ["a", 1]),
    *([0] * 300, {"a": {"b": []}}, "a" * 50 + "b"),
)
DEEP = "[" * 100 + "]" * 100


def of_bytes(r: random.Random, data: bytes) -> bytes:
    """A few bits, a piece, a number."""
    return r.choice((flip, cut, overwrite))(r, data) if data else b"x"


def of_text(r: random.Random, data: bytes) -> bytes:
    """The same, and words of JSON where they do not belong."""
    return r.choice((flip, cut, json_words))(r, data) if data else b"x"


def of_json(r: random.Random, data: bytes) -> bytes:
    """Well-formed: values of other kinds, keys that are missing or new; now and then not."""
    if r.random() < 0.15:
        return of_text(r, data)
    value = json.loads(data)
    for _ in range(r.choice((1, 1, 1, 2, 5))):
        _change(r, value)
    text = json.dumps(value)
    if r.random() < 0.03:
        text = text.replace("null", DEEP, 1).replace("true", DEEP, 1)
    return text.encode("utf-8", "surrogatepass")


def _change(r: random.Random, value: Any) -> None:
    """One node, more often a shallow one, so that long lists do not take all."""
    owner = value
    while True:
        keys = list(owner) if isinstance(owner, dict) else list(range(len(owner)))
        if not keys:
            return
        key = r.choice(keys)
        inner = owner[key]
        if isinstance(inner, dict | list) and inner and r.random() < 0.7:
            owner = inner
            continue
        break
    kind = r.randrange(10)
    if kind == 0:
        del owner[key]
    elif kind == 1 and isinstance(owner, dict):
        owner[r.choice(("type", "\x1b", "", "text_config", "rope_scaling", "pattern"))] = deepcopy(
            inner
        )
    elif kind == 2 and isinstance(owner, list):
        owner.extend(deepcopy(owner[-3:]))
    elif kind == 3:
        owner[key] = [inner]
    elif kind == 4 and isinstance(inner, int | float) and not isinstance(inner, bool):
        owner[key] = inner * r.choice((-1, 2, 3, 1000))
    else:
        owner[key] = deepcopy(r.choice(ODD))
