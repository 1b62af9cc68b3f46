"""MLX's integers: by the layout as it is written down, without MLX."""

import numpy as np
import pytest
from formats.packed import seen_of
from formats.weights import extremes, finite_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qconvert.errors import PlanError, UnsupportedError
from qconvert.formats.mlx.affine import BITS, Affine
from qconvert.formats.safetensors.scales import read, rounded

DTYPES = ("BF16", "F16", "F32")
quick = settings(max_examples=25, suppress_health_check=list(HealthCheck))


def coded(format_: Affine, x: np.ndarray, importance: np.ndarray | None = None):
    params = format_.fit(x, seen_of(importance))
    return format_.pack(format_.round(x, params), params)


def codes_of(words: np.ndarray, bits: int) -> np.ndarray:
    """Codes of a dense stream of bits, the lowest of each first: int64 [rows, columns]."""
    stream = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    return stream.reshape(len(words), -1, bits) @ (1 << np.arange(bits))


def random_weights(seed: int, dtype: str = "F32") -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 20)), 256)
    draws = [
        rng.standard_normal(shape),
        rng.standard_t(3, shape),
        rng.laplace(size=shape) + 0.5,
        rng.uniform(-2, -1, shape),
        rng.standard_normal(shape) * (rng.random(shape) < 0.1),
    ]
    x = (draws[rng.integers(len(draws))] * 2.0 ** rng.integers(-12, 4)).astype(np.float32)
    return rounded(x, dtype)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_words_are_scale_times_code_plus_bias(bits, dtype):
    rng = np.random.default_rng(bits)
    words = rng.integers(0, 1 << 32, (6, 8 * bits), dtype=np.uint32)
    scale, bias = (rounded(rng.standard_normal((6, 8)).astype(np.float32), dtype) for _ in "sb")
    kind = {"BF16": lambda v: (v.view(np.uint32) >> 16).astype(np.uint16), "F16": np.float16}
    stored = [kind.get(dtype, np.float32)(one) for one in (scale, bias)]
    wanted = scale.repeat(32, 1) * codes_of(words, bits).astype(np.float32) + bias.repeat(32, 1)
    np.testing.assert_array_equal(Affine(bits, 32, dtype).dequantize((words, *stored)), wanted)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_largest_weight_is_met_and_so_is_zero(bits, size):
    """MLX's rule: the edge of larger magnitude is the bias, code 0, and the scale divides it."""
    for seed in range(20):
        x = random_weights(seed)
        words, scale, bias = coded(Affine(bits, size, "F32"), x)
        groups = x.reshape(len(x), -1, size)
        low, high = groups.min(axis=2), groups.max(axis=2)
        edge = np.where(np.abs(low) > np.abs(high), low, high)
        width = np.maximum((high - low) / ((1 << bits) - 1), np.float32(1e-7))
        near_zero = np.rint(edge / width) == 0
        np.testing.assert_array_equal(bias, np.where(near_zero, 0, edge))
        steps = np.divide(bias, scale, dtype=np.float64)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
        assert (scale[bias > 0] < 0).all()
        assert (scale[bias < 0] > 0).all()
        codes = codes_of(words, bits).reshape(groups.shape)
        off = scale[..., None].astype(float) * codes + bias[..., None] - groups
        # Where zero has a code, the other edge may lie beyond the codes.
        assert (np.abs(off) <= 0.5001 * np.abs(scale)[..., None] + 1e-12).mean() > 0.9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", BITS)
def test_the_search_never_loses_to_the_rule(bits, dtype):
    for seed in range(30):
        x = random_weights(seed)
        importance = np.random.default_rng(seed).gamma(0.5, 1.0, 256).astype(np.float32)
        errors = []
        for searched in (False, True):
            format_ = Affine(bits, (32, 64, 128)[seed % 3], dtype, searched)
            off = format_.dequantize(coded(format_, x, importance)).astype(float) - x
            errors.append(float((off * off * importance).sum()))
        # The rule rounds by what it has before scales are narrowed.
        assert errors[1] <= errors[0] * (1 + 1e-9)


@pytest.mark.parametrize("bits", BITS)
def test_the_search_gains_with_an_importance_and_without(bits):
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((64, 512)) * 0.02).astype(np.float32)
    importance = np.exp(rng.standard_normal(512)).astype(np.float32)
    for weights, share in ((None, 0.85), (importance, 0.75)):
        errors = []
        for searched in (False, True):
            format_ = Affine(bits, 64, "BF16", searched)
            off = format_.dequantize(coded(format_, x, weights)) - x
            errors.append((off**2 * (1 if weights is None else weights)).sum())
        assert errors[1] < share * errors[0]


@pytest.mark.parametrize("searched", [False, True])
@pytest.mark.parametrize("extreme", extremes(128))
def test_extremes_give_whole_groups(searched, extreme):
    x = extremes(128)[extreme]
    for dtype in DTYPES:
        for bits in BITS:
            format_ = Affine(bits, 64, dtype, searched)
            arrays = coded(format_, x)
            back = format_.dequantize(arrays)
            assert np.isfinite(np.concatenate([read(one) for one in arrays[1:]])).all()
            if np.abs(x).max() < 1e4:
                assert np.abs(back - x).max() <= np.abs(x).max() + 2e-7


@pytest.mark.parametrize("searched", [False, True])
@quick
@given(data=st.data())
def test_rows_are_coded_one_by_one(searched, data):
    x = data.draw(finite_weights(128, limit=1e4))
    format_ = Affine(4, 32, "BF16", searched)
    for row in range(len(x)):
        alone = coded(format_, x[row : row + 1].copy())
        for one, whole in zip(alone, coded(format_, x), strict=True):
            np.testing.assert_array_equal(one[0], whole[row])


def test_weights_on_a_grid_are_met_exactly():
    rng = np.random.default_rng(3)
    for searched in (False, True):
        x = (rng.integers(-7, 9, (8, 256)) / 64).astype(np.float32)
        x[:, ::64], x[:, 1::64] = -7 / 64, 8 / 64
        format_ = Affine(4, 64, "BF16", searched)
        np.testing.assert_array_equal(format_.dequantize(coded(format_, x)), x)


@pytest.mark.parametrize(("bits", "size"), [(7, 64), (1, 64), (4, 16), (4, 256)])
def test_what_mlx_does_not_have_is_refused(bits, size):
    with pytest.raises(UnsupportedError, match=f"{bits} bits in groups of {size}"):
        Affine(bits, size, "F16")


def test_rows_that_groups_do_not_divide_are_refused():
    with pytest.raises(PlanError, match="rows of 96"):
        Affine(4, 64, "F16").parts((4, 96))
