"""A pickle reader that can build dictionaries of tensors and nothing else.

`pickle` runs whatever a file names; here the instructions are read with `pickletools` and carried
out on plain data. The few functions that torch's pickles call are names to compare with, and a
pickle that asks for any other is refused by that name.

Source: the opcodes as the standard library's `pickletools` documents them.
"""

import io
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from qconvert.errors import CheckpointError

DTYPES = {
    "Double": "F64",
    "Float": "F32",
    "Half": "F16",
    "BFloat16": "BF16",
    "Long": "I64",
    "Int": "I32",
    "Short": "I16",
    "Char": "I8",
    "Byte": "U8",
    "Bool": "BOOL",
}
SCALAR_DTYPES = {
    "torch float64": "F64",
    "torch float32": "F32",
    "torch float16": "F16",
    "torch bfloat16": "BF16",
    "torch float8_e4m3fn": "F8_E4M3",
    "torch float8_e5m2": "F8_E5M2",
    "torch float8_e8m0fnu": "F8_E8M0",
    "torch int64": "I64",
    "torch int32": "I32",
    "torch int16": "I16",
    "torch int8": "I8",
    "torch uint64": "U64",
    "torch uint32": "U32",
    "torch uint16": "U16",
    "torch uint8": "U8",
    "torch bool": "BOOL",
}
STORAGES = {f"torch {name}Storage": dtype for name, dtype in DTYPES.items()}
UNTYPED = ("torch.storage UntypedStorage", "torch UntypedStorage")
ORDERED = ("collections OrderedDict", "__builtin__ dict", "builtins dict")
TENSOR = "torch._utils _rebuild_tensor_v2"
TENSOR_ANY = "torch._utils _rebuild_tensor_v3"
PARAMETER = "torch._utils _rebuild_parameter"
KNOWN = {*STORAGES, *UNTYPED, *SCALAR_DTYPES, *ORDERED, TENSOR, TENSOR_ANY, PARAMETER}
ITEMSIZE = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
MAX_DIMENSIONS = 32
HINT = "only weights are read, no code is run: save the model again as safetensors"


@dataclass(frozen=True)
class Name:
    """A global that the pickle mentions: "module name"."""

    text: str


@dataclass(frozen=True)
class Storage:
    """A run of bytes that tensors view. `dtype` is empty where the tensor has it."""

    key: str
    dtype: str
    elements: int

    @property
    def itemsize(self) -> int:
        return ITEMSIZE.get(self.dtype, 1)


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Mark:
    """Where a run of items on the stack begins."""


MARK = Mark()


@dataclass
class State:
    """The machine: a stack, a memo, and the storages seen."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)


def run_pickle(
    source: bytes | BinaryIO, where: str, storages: dict[str, Storage] | None = None
) -> Any:
    """The value of one pickle: plain data, `Tensor`, `Storage` and `Name`.

    Args:
        source: the pickle, or a file that is read to the pickle's end and no further.
        where: names it in messages.
        storages: filled with the storages that the pickle names, by key.

    Raises:
        CheckpointError: it is broken, or asks for more than tensors.
    """
    state = State(storages={} if storages is None else storages)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                (value,) = state.stack
                return value
            STEPS[opcode.name](state, argument)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error.message}", error.hint) from error
    except KeyError as error:
        if error.args[0] in INSTRUCTIONS:
            raise CheckpointError(
                f"{where}: the pickle wants to run code ({error.args[0]})", HINT
            ) from error
        raise CheckpointError(f"{where}: the pickle is broken", HINT) from error
    except (
        ValueError,
        IndexError,
        TypeError,
        AttributeError,
        struct.error,
        OverflowError,
    ) as error:
        raise CheckpointError(f"{where}: the pickle is broken: {error}", HINT) from error
    raise CheckpointError(f"{where}: the pickle ends too early", HINT)


def _push(state: State, value: Any) -> None:
    state.stack.append(value)


def _name(state: State, text: str) -> None:
    if text not in KNOWN:
        raise CheckpointError(
            f"the pickle wants to run code: {text.replace(' ', '.')!r:.200}", HINT
        )
    state.stack.append(Name(text))


def _stack_name(state: State, _: Any) -> None:
    name, module = state.stack.pop(), state.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("a global without a name")
    _name(state, f"{module} {name}")


def _items(state: State) -> list[Any]:
    """Take the items above the last mark, and the mark."""
    position = len(state.stack) - 1
    while state.stack[position] is not MARK:
        position -= 1
        if position < 0:
            raise ValueError("no mark")
    items = state.stack[position + 1 :]
    del state.stack[position:]
    return items


def _take(state: State, count: int) -> tuple[Any, ...]:
    if len(state.stack) < count:
        raise ValueError("the stack is empty")
    items = tuple(state.stack[len(state.stack) - count :])
    del state.stack[len(state.stack) - count :]
    return items


def _set_items(state: State, items: list[Any]) -> None:
    target = state.stack[-1]
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError("items without a dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Nested tuples as keys would be hashed without end.
        if not isinstance(key, str | int):
            raise ValueError("a key that is neither text nor number")
        target[key] = value


def _append(state: State, items: list[Any]) -> None:
    if not isinstance(state.stack[-1], list):
        raise ValueError("items without a list")
    state.stack[-1].extend(items)


def _memoize(state: State, index: Any) -> None:
    state.memo[len(state.memo) if index is None else int(index)] = state.stack[-1]


def _recall(state: State, index: Any) -> None:
    if int(index) not in state.memo:
        raise ValueError("nothing under that number")
    state.stack.append(state.memo[int(index)])


def _build(state: State, _: Any) -> None:
    # The attributes of an ordered dictionary (its `_metadata`) are dropped.
    _, target = state.stack.pop(), state.stack[-1]
    if not isinstance(target, dict):
        raise ValueError("attributes for something that has none")


def _persistent(state: State, _: Any) -> None:
    kind, storage, key, _device, elements, *rest = _tuple(state.stack.pop())
    if kind != "storage" or not isinstance(storage, Name) or not isinstance(key, str):
        raise ValueError("a reference that is no storage")
    if storage.text not in STORAGES and storage.text not in UNTYPED:
        raise ValueError("a reference that is no storage")
    if rest not in ([], [None]):
        raise CheckpointError("a view of a storage, as torch before 0.4 wrote it", HINT)
    found = Storage(key, STORAGES.get(storage.text, ""), _natural(elements))
    if state.storages.setdefault(key, found) != found:
        raise ValueError("two storages under one key")
    state.stack.append(found)


def _reduce(state: State, _: Any) -> None:
    function, arguments = _take(state, 2)
    if not isinstance(function, Name):
        raise ValueError("a call of something that is no function")
    arguments = _tuple(arguments)
    if function.text in ORDERED and not arguments:
        # With arguments, a small pickle could copy one list of items many times over.
        state.stack.append({})
    elif function.text in (TENSOR, TENSOR_ANY):
        state.stack.append(_rebuild(function.text, arguments))
    elif function.text == PARAMETER and arguments and isinstance(arguments[0], Tensor):
        state.stack.append(arguments[0])
    else:
        raise ValueError(f"a call of {function.text.replace(' ', '.')}")


def _rebuild(function: str, arguments: tuple[Any, ...]) -> Tensor:
    storage, offset, shape, strides, _grad, _hooks, *rest = arguments
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    dtype = storage.dtype
    if function == TENSOR_ANY:
        given, *rest = rest
        dtype = SCALAR_DTYPES.get(given.text, "") if isinstance(given, Name) else ""
    if not dtype:
        raise ValueError("a tensor without a dtype")
    if any(rest):
        raise CheckpointError("a tensor that is conjugate or negated", HINT)
    shape, strides = _tuple(shape), _tuple(strides)
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise ValueError("a tensor with an impossible shape")
    return Tensor(
        storage,
        dtype,
        _natural(offset),
        tuple(_natural(size) for size in shape),
        tuple(_natural(stride) for stride in strides),
    )


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("a size that is no size")
    return value


def _tuple(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        raise ValueError("arguments that are no tuple")
    return value


def _nothing(state: State, _: Any) -> None:
    """Instructions that frame the rest."""


Step = Callable[[State, Any], None]

STEPS: dict[str, Step] = {
    **dict.fromkeys(("PROTO", "FRAME"), _nothing),
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        _push,
    ),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _push),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _memoize),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _recall),
    "NONE": lambda state, _: _push(state, None),
    "NEWTRUE": lambda state, _: _push(state, True),
    "NEWFALSE": lambda state, _: _push(state, False),
    "MARK": lambda state, _: _push(state, MARK),
    "EMPTY_TUPLE": lambda state, _: _push(state, ()),
    "TUPLE1": lambda state, _: _push(state, _take(state, 1)),
    "TUPLE2": lambda state, _: _push(state, _take(state, 2)),
    "TUPLE3": lambda state, _: _push(state, _take(state, 3)),
    "TUPLE": lambda state, _: _push(state, tuple(_items(state))),
    "EMPTY_LIST": lambda state, _: _push(state, []),
    "LIST": lambda state, _: _push(state, _items(state)),
    "APPEND": lambda state, _: _append(state, list(_take(state, 1))),
    "APPENDS": lambda state, _: _append(state, _items(state)),
    "EMPTY_DICT": lambda state, _: _push(state, {}),
    "SETITEM": lambda state, _: _set_items(state, list(_take(state, 2))),
    "SETITEMS": lambda state, _: _set_items(state, _items(state)),
    "POP": lambda state, _: _nothing(state, state.stack.pop()),
    "GLOBAL": _name,
    "STACK_GLOBAL": _stack_name,
    "BINPERSID": _persistent,
    "REDUCE": _reduce,
    "BUILD": _build,
}

INSTRUCTIONS = {opcode.name for opcode in pickletools.opcodes} - STEPS.keys()
