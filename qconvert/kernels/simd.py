"""Sixteen float32 side by side as one Numba value.

The searches over scales try sixteen candidates at once, one a lane. Written with this type they
are SIMD code by construction: nothing depends on what the compiler's vectorizer makes of a loop,
and no sum is reassociated, so the same bytes come out whatever the processor's vectors are wide.
LLVM splits a `Lanes` over as many registers as it needs (one with AVX-512, two with AVX2).

Arithmetic (+, -, *, /) works lane by lane, and a float32 scalar stands for sixteen equal lanes.
"""

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

WIDTH = 16
_VECTOR = ir.VectorType(ir.FloatType(), WIDTH)
_INT = ir.IntType(32)


class Lanes(types.Type):  # type: ignore[misc]
    """The Numba type of sixteen float32 lanes. Lives in kernels only: it cannot be boxed."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


LANES = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


class _Arithmetic(ConcreteTemplate):  # type: ignore[misc]
    cases = [  # noqa: RUF012 (Numba's protocol)
        signature(LANES, LANES, LANES),
        signature(LANES, LANES, types.float32),
        signature(LANES, types.float32, LANES),
    ]


def _splat(builder: Any, value: Any) -> Any:
    """The value itself if it has lanes, else sixteen copies of it."""
    if value.type == _VECTOR:
        return value
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, _INT(0))
    zeros = ir.Constant(ir.VectorType(_INT, WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), zeros)


def _splat_int(builder: Any, value: Any) -> Any:
    """Sixteen copies of an int32."""
    kind = ir.VectorType(_INT, WIDTH)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _INT(0))
    zeros = ir.Constant(kind, [0] * WIDTH)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def _lower_arithmetic(function: Any, instruction: str) -> None:
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*(_splat(builder, arg) for arg in args))

    infer_global(function)(_Arithmetic)
    for case in _Arithmetic.cases:
        lower_builtin(function, *case.args)(lower)


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _lower_arithmetic(_function, _instruction)


def _call(builder: Any, name: str, *args: Any) -> Any:
    """A call of one of LLVM's own lane-by-lane functions."""
    function_type = ir.FunctionType(_VECTOR, [_VECTOR] * len(args))
    function = cgutils.get_or_insert_function(
        builder.module, function_type, f"llvm.{name}.v{WIDTH}f32"
    )
    return builder.call(function, [_splat(builder, arg) for arg in args])


def _operands_ok(*operands: Any) -> bool:
    return all(operand in (LANES, types.float32) for operand in operands)


@intrinsic
def splat(typingctx: Any, value: Any) -> Any:
    """Sixteen copies of a float32."""
    return LANES(types.float32), lambda ctx, builder, sig, args: _splat(builder, args[0])


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    if not _operands_ok(a, b, c):
        return None
    return LANES(a, b, c), lambda ctx, builder, sig, args: _call(builder, "fma", *args)


@intrinsic
def rint(typingctx: Any, a: Any) -> Any:
    """The nearest integer, ties to even."""
    return LANES(LANES), lambda ctx, builder, sig, args: _call(builder, "rint", *args)


@intrinsic
def trunc(typingctx: Any, a: Any) -> Any:
    """The integer part."""
    return LANES(LANES), lambda ctx, builder, sig, args: _call(builder, "trunc", *args)


@intrinsic
def magnitude(typingctx: Any, a: Any) -> Any:
    """The absolute value."""
    return LANES(LANES), lambda ctx, builder, sig, args: _call(builder, "fabs", *args)


def _choose(builder: Any, order: str, a: Any, b: Any, then: Any, other: Any) -> Any:
    mask = builder.fcmp_ordered(order, _splat(builder, a), _splat(builder, b))
    return builder.select(mask, _splat(builder, then), _splat(builder, other))


@intrinsic
def least(typingctx: Any, a: Any, b: Any) -> Any:
    """The lesser of both, lane by lane; b where a is no number."""
    if not _operands_ok(a, b):
        return None

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _choose(builder, "<", *args, *args)

    return LANES(a, b), lower


@intrinsic
def greatest(typingctx: Any, a: Any, b: Any) -> Any:
    """The greater of both, lane by lane; b where a is no number."""
    if not _operands_ok(a, b):
        return None

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _choose(builder, ">", *args, *args)

    return LANES(a, b), lower


@intrinsic
def where_less(typingctx: Any, a: Any, b: Any, then: Any, other: Any) -> Any:
    """`then` in the lanes where a < b, `other` elsewhere."""
    if not _operands_ok(a, b, then, other):
        return None

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _choose(builder, "<", *args)

    return LANES(a, b, then, other), lower


def _address(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
    array = ctx.make_array(sig.args[0])(ctx, builder, args[0])
    return builder.gep(array.data, [args[1]])


@intrinsic
def load(typingctx: Any, array: Any, index: Any) -> Any:
    """array[index : index + 16] of a contiguous float32 array. Bounds are the caller's care."""

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = _address(ctx, builder, sig, args)
        return builder.load(builder.bitcast(address, _VECTOR.as_pointer()), align=1)

    return LANES(array, types.intp), lower


@intrinsic
def at(typingctx: Any, array: Any, index: Any) -> Any:
    """Sixteen copies of array[index]. Bounds are the caller's care."""

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, builder.load(_address(ctx, builder, sig, args), align=1))

    return LANES(array, types.intp), lower


@intrinsic
def load_digits(typingctx: Any, array: Any, index: Any, shift: Any, mask: Any) -> Any:
    """array[index : index + 16] >> shift & mask of a contiguous array of uint8 or uint16, as
    float32. Bounds are the caller's care."""

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        narrow = ir.VectorType(ir.IntType(sig.args[0].dtype.bitwidth), WIDTH)
        wide = ir.VectorType(_INT, WIDTH)
        address = builder.bitcast(_address(ctx, builder, sig, args), narrow.as_pointer())
        value = builder.zext(builder.load(address, align=1), wide)
        shift, mask = (_splat_int(builder, builder.trunc(arg, _INT)) for arg in args[2:])
        digits = builder.and_(builder.lshr(value, shift), mask)
        return builder.sitofp(digits, _VECTOR)

    return LANES(array, types.intp, types.intp, types.intp), lower


@intrinsic
def negatives(typingctx: Any, a: Any) -> Any:
    """Which lanes are below zero: an integer, bit i for lane i."""

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        below = builder.fcmp_ordered("<", args[0], ir.Constant(_VECTOR, [0.0] * WIDTH))
        return builder.zext(builder.bitcast(below, ir.IntType(WIDTH)), ir.IntType(64))

    return types.int64(LANES), lower


@intrinsic
def lane(typingctx: Any, a: Any, index: Any) -> Any:
    """One lane as a float32."""

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.extract_element(args[0], args[1])

    return types.float32(LANES, types.intp), lower


def _fold(builder: Any, value: Any, combine: Any) -> Any:
    """Halve the lanes in use until the result stands in the first one."""
    for half in (8, 4, 2, 1):
        order = [(i + half) % WIDTH for i in range(WIDTH)]
        mask = ir.Constant(ir.VectorType(_INT, WIDTH), order)
        value = combine(value, builder.shuffle_vector(value, value, mask))
    return builder.extract_element(value, _INT(0))


@intrinsic
def total(typingctx: Any, a: Any) -> Any:
    """The sum of the lanes, always added in the same order."""

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _fold(builder, args[0], builder.fadd)

    return types.float32(LANES), lower


@intrinsic
def lowest(typingctx: Any, a: Any) -> Any:
    """The least of the lanes."""

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _fold(builder, args[0], lambda p, q: _choose(builder, "<", p, q, p, q))

    return types.float32(LANES), lower


@intrinsic
def highest(typingctx: Any, a: Any) -> Any:
    """The greatest of the lanes."""

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _fold(builder, args[0], lambda p, q: _choose(builder, ">", p, q, p, q))

    return types.float32(LANES), lower


@intrinsic
def argmin(typingctx: Any, a: Any) -> Any:
    """The first lane that holds the least value (lanes that are no number lose)."""

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        infinite = ir.Constant(ir.FloatType(), float("inf"))
        value = _choose(builder, "<", args[0], infinite, args[0], infinite)
        least_one = _fold(builder, value, lambda p, q: _choose(builder, "<", p, q, p, q))
        equal = builder.fcmp_ordered("==", value, _splat(builder, least_one))
        bits = builder.bitcast(equal, ir.IntType(WIDTH))
        wide = builder.zext(bits, ir.IntType(64))
        first = builder.cttz(wide, ir.Constant(ir.IntType(1), 0))
        return builder.and_(first, ir.Constant(ir.IntType(64), WIDTH - 1))

    return types.intp(LANES), lower


@intrinsic
def store(typingctx: Any, array: Any, index: Any, a: Any) -> Any:
    """array[index : index + 16] = a. Bounds are the caller's care."""

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = builder.bitcast(_address(ctx, builder, sig, args), _VECTOR.as_pointer())
        builder.store(args[2], address, align=1)
        return ctx.get_dummy_value()

    return types.void(array, types.intp, LANES), lower


@intrinsic
def store_bytes(typingctx: Any, array: Any, index: Any, a: Any) -> Any:
    """array[index : index + 16] = a, for whole numbers from -128 to 255 and a uint8 array."""

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        octets = ir.VectorType(ir.IntType(8), WIDTH)
        whole = builder.fptosi(args[2], ir.VectorType(_INT, WIDTH))
        address = builder.bitcast(_address(ctx, builder, sig, args), octets.as_pointer())
        builder.store(builder.trunc(whole, octets), address, align=1)
        return ctx.get_dummy_value()

    return types.void(array, types.intp, LANES), lower


@intrinsic
def store_indices(typingctx: Any, array: Any, index: Any, a: Any) -> Any:
    """array[index : index + 16] = a without fractions, for an int32 array."""

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        whole = builder.fptosi(args[2], ir.VectorType(_INT, WIDTH))
        address = builder.bitcast(_address(ctx, builder, sig, args), whole.type.as_pointer())
        builder.store(whole, address, align=1)
        return ctx.get_dummy_value()

    return types.void(array, types.intp, LANES), lower


@intrinsic
def keep_apart(typingctx: Any) -> Any:
    """Keep LLVM from inlining the function that calls this: it stays small and compiles once."""

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return ctx.get_dummy_value()

    return types.void(), lower


def _interleave(builder: Any, rows: list[Any]) -> list[Any]:
    """Rows i and i + 8, element by element, as rows 2 i and 2 i + 1."""
    made = []
    for first, second in zip(rows[:8], rows[8:], strict=True):
        for half in (0, WIDTH // 2):
            pairs = [(i, i + WIDTH) for i in range(half, half + WIDTH // 2)]
            order = [index for pair in pairs for index in pair]
            mask = ir.Constant(ir.VectorType(_INT, WIDTH), order)
            made.append(builder.shuffle_vector(first, second, mask))
    return made


@intrinsic
def transpose(typingctx: Any, source: Any, target: Any) -> Any:
    """The first 256 of a contiguous float32 array as a 16 x 16 matrix, rows and columns swapped.

    Interleaving the halves turns the eight bits of an element's index round by one; four times
    make columns of rows. Bounds are the caller's care.
    """

    def lower(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointers = [
            builder.bitcast(ctx.make_array(kind)(ctx, builder, array).data, _VECTOR.as_pointer())
            for kind, array in zip(sig.args, args, strict=True)
        ]
        rows = [builder.load(builder.gep(pointers[0], [_INT(i)]), align=4) for i in range(WIDTH)]
        for _ in range(4):
            rows = _interleave(builder, rows)
        for i, row in enumerate(rows):
            builder.store(row, builder.gep(pointers[1], [_INT(i)]), align=4)
        return ctx.get_dummy_value()

    return types.void(source, target), lower
