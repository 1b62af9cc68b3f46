"""The standard library's unpickler, able to build dictionaries of tensors and nothing else.

Two gates stand before it. The instructions are read first with `pickletools`, which allocates no
more than the file holds: only those of plain data go on, and those that the unpickler would carry
out on objects of its own are replaced. A global is then a name to compare with, and the few
functions that torch's pickles call are these below; a pickle that asks for any other is refused
by that name.

Source: the opcodes as `pickletools` documents them; `find_class` and `persistent_load` as the
documentation of `pickle` has them for restricting globals and for objects kept outside.
"""

import io
import pickle
import pickletools
from dataclasses import dataclass
from typing import Any

from qconvert.checkpoint.dtypes import PLAIN
from qconvert.errors import CheckpointError

STORAGES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
    "torch.storage.UntypedStorage": "",
    "torch.UntypedStorage": "",
}
DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.float8_e8m0fnu": "F8_E8M0",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint64": "U64",
    "torch.uint32": "U32",
    "torch.uint16": "U16",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
# fmt: off
PLAIN_DATA = {
    "PROTO", "FRAME", "STOP", "MARK", "POP", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT",
    "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING", "PUT", "BINPUT",
    "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM",
    "SETITEMS", "GLOBAL", "STACK_GLOBAL", "BINPERSID", "REDUCE", "BUILD",
}
# fmt: on
REPLACED = {
    # A `Table`, by way of `persistent_load(None)`: a `dict` would hash whatever is its key.
    "EMPTY_DICT": b"NQ",
    # What torch sets are the attributes of an ordered dictionary (its `_metadata`): dropped.
    "BUILD": b"0",
    # Lengths change; frames are only a hint how far to read ahead.
    "FRAME": b"",
}
MAX_DIMENSIONS = 32
MAX_OPCODES, MAX_TABLES = 1_000_000, 10_000
"""A tensor takes some forty; all are in one dictionary or a few, an optimizer's in one each."""
HINT = "only weights are read, no code is run: save the model again as safetensors"


@dataclass(frozen=True)
class Name:
    """A type that the pickle mentions: "module.name"."""

    text: str


@dataclass(frozen=True)
class Storage:
    """A run of bytes that tensors view. `dtype` is empty where the tensor has it."""

    key: str
    dtype: str
    elements: int

    @property
    def itemsize(self) -> int:
        return PLAIN.get(self.dtype, 1)


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Table(dict[str | int, Any]):
    """A dictionary that starts empty and has texts and numbers for keys."""

    def __init__(self) -> None:
        # With arguments, a small pickle could copy one list of items many times over.
        super().__init__()

    def __setitem__(self, key: str | int, value: Any) -> None:
        # Nested tuples as keys would be hashed without end.
        if not isinstance(key, str | int):
            raise ValueError("a key that is neither text nor number")
        super().__setitem__(key, value)


def unpickle(file: io.BytesIO, where: str) -> tuple[Any, dict[str, Storage]]:
    """Read one pickle, to its end and no further.

    Args:
        file: stands at the pickle's beginning.
        where: names it in messages.

    Returns:
        Its value: plain data, `Table`, `Tensor` and `Storage`; the storages named in it, by key.

    Raises:
        CheckpointError: it is broken, or asks for more than tensors.
    """
    refused = ""
    try:
        code, refused = _checked(file)
        reader = _Reader(io.BytesIO(code), encoding="latin-1")
        return reader.load(), reader.storages
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error.message}", error.hint) from error
    except Exception as error:
        # Which errors broken pickles raise is left open by the library's documentation.
        what = f"wants to run code ({refused})" if refused else f"is broken: {error!s:.200}"
        raise CheckpointError(f"{where}: the pickle {what}", HINT) from error


def _checked(file: io.BytesIO) -> tuple[bytes, str]:
    """One pickle's instructions, some of them `REPLACED`.

    The first one that is not of plain data is named, and they end before it: what they do up to
    there may say more about what the pickle wants.
    """
    data, begin, result, tables = file.getvalue(), file.tell(), bytearray(), 0
    for number, (opcode, argument, position) in enumerate(pickletools.genops(file)):
        tables += opcode.name == "EMPTY_DICT"
        if number > MAX_OPCODES or tables > MAX_TABLES:
            raise ValueError("it has more parts than a dictionary of tensors")
        if opcode.name not in PLAIN_DATA:
            return bytes(result + data[begin:position]), opcode.name
        # The unpickler's memo is as large as its highest number.
        if opcode.name in ("PUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= (position or 0):
            raise ValueError("a number of the memo that is too high")
        if opcode.name in REPLACED:
            result += data[begin:position] + REPLACED[opcode.name]
            begin = file.tell()
    return bytes(result + data[begin : file.tell()]), ""


class _Reader(pickle.Unpickler):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        text = f"{module}.{name}"
        if text in STORAGES or text in DTYPES:
            return Name(text)
        if text not in CALLS:
            raise CheckpointError(f"the pickle wants to run code: {text!r:.200}", HINT)
        return CALLS[text]

    def persistent_load(self, pid: Any) -> Any:
        if pid is None:
            return Table()
        kind, storage, key, _device, elements, *rest = _tuple(pid)
        named = isinstance(storage, Name) and storage.text in STORAGES
        if kind != "storage" or not named or not isinstance(key, str):
            raise ValueError("a reference that is no storage")
        if rest not in ([], [None]):
            raise CheckpointError("a view of a storage, as torch before 0.4 wrote it", HINT)
        found = Storage(key, STORAGES[storage.text], _natural(elements))
        if self.storages.setdefault(key, found) != found:
            raise ValueError("two storages under one key")
        return found


def _rebuild(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, *flags: Any
) -> Tensor:
    return _view(storage, storage.dtype, offset, shape, strides, flags)


def _rebuild_any(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    _grad: Any,
    _hooks: Any,
    dtype: Any,
    *flags: Any,
) -> Tensor:
    return _view(storage, DTYPES.get(dtype.text, ""), offset, shape, strides, flags)


def _view(
    storage: Any, dtype: str, offset: Any, shape: Any, strides: Any, flags: tuple[Any, ...]
) -> Tensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    if not dtype:
        raise ValueError("a tensor without a dtype")
    if any(flags):
        raise CheckpointError("a tensor that is conjugate or negated", HINT)
    if len(_tuple(shape)) != len(_tuple(strides)) or len(shape) > MAX_DIMENSIONS:
        raise ValueError("a tensor with an impossible shape")
    sizes, steps = tuple(map(_natural, shape)), tuple(map(_natural, strides))
    return Tensor(storage, dtype, _natural(offset), sizes, steps)


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError("a parameter without a tensor")
    return tensor


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("a size that is no size")
    return value


def _tuple(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        raise ValueError("arguments that are no tuple")
    return value


CALLS = {
    "collections.OrderedDict": Table,
    "__builtin__.dict": Table,
    "builtins.dict": Table,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_any,
    "torch._utils._rebuild_parameter": _parameter,
}
