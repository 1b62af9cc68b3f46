"""IQ1, IQ2 and IQ3 formats against ggml's quantizers: smaller errors, the same layout."""

import gguf
import numpy as np
import pytest
from formats.packed import packed_of, weights_of
from formats.references import RANDOM, REAL, errors, random_importance, tensor_of
from gguf import GGMLQuantizationType

from qconvert.formats.ggml import iq1, iq2, iq3
from qconvert.formats.ggml.lattice import digits, grid, near, packed_digits, places

LAYOUTS = {layout.name: layout for layout in (iq1.S, iq1.M, iq2.XXS, iq2.XS, iq2.S, iq3.XXS, iq3.S)}
SEEDS = (*range(40), *range(RANDOM, RANDOM + REAL, 3))
"""The references are slow: two of each kind of random tensors, and every third real one."""

FAST = ["IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ3_S"]
# ggml sorts distances to its points for many seconds before it quantizes these for the first time.
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("IQ1_S", "IQ1_M", "IQ2_S")]


@pytest.mark.parametrize("name", FAST + SLOW)
def test_error_is_at_most_the_references_on_every_tensor(name):
    worse = []
    for seed in SEEDS:
        x = tensor_of(seed)
        ours, theirs = errors(name, x, random_importance(seed, x.shape[1]))
        if not ours <= theirs:
            worse.append((seed, ours / theirs))
    assert not worse


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_so_it_is_on_all_others(name):
    worse = []
    for seed in set(range(RANDOM + REAL)) - set(SEEDS):
        x = tensor_of(seed)
        ours, theirs = errors(name, x, random_importance(seed, x.shape[1]))
        if not ours <= theirs:
            worse.append((seed, ours / theirs))
    assert not worse


@pytest.mark.parametrize(
    "name", [pytest.param("IQ1_M", marks=pytest.mark.slow), "IQ3_XXS", "IQ3_S"]
)
def test_so_it_is_without_importance(name):
    worse = []
    for seed in SEEDS:
        ours, theirs = errors(name, tensor_of(seed), None)
        if not ours <= theirs:
            worse.append((seed, ours / theirs))
    assert not worse


@pytest.mark.parametrize("name", FAST + SLOW)
def test_error_is_well_below_the_references_on_normal_weights(name):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((32, 1024)) * 0.02).astype(np.float32)
    ours, theirs = errors(name, x, rng.gamma(0.5, 1.0, 1024).astype(np.float32))
    assert ours < 0.85 * theirs


@pytest.mark.parametrize("name", LAYOUTS)
def test_levels_are_those_of_gguf(name):
    layout = LAYOUTS[name]
    points = grid(name)
    unit = np.unique(points)[0] / layout.levels[0]
    np.testing.assert_array_equal(np.array(layout.levels)[digits(name)] * unit, points)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_points_near_a_combination_are_the_nearest(name):
    layout = LAYOUTS[name]
    table = places(layout)[near(layout).reshape(-1, layout.listed)]
    points = digits(name)
    levels = len(layout.levels)
    for combination in np.random.default_rng(5).integers(0, levels**layout.dims, 50):
        wanted = combination // levels ** np.arange(layout.dims) % levels
        distance = np.square(points - wanted).sum(axis=1)
        assert len(set(table[combination])) == layout.listed
        np.testing.assert_array_equal(
            distance[table[combination]], np.sort(distance)[: layout.listed]
        )


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_point_is_found_by_its_digits(name):
    layout = LAYOUTS[name]
    found = places(layout)[packed_digits(layout)]
    np.testing.assert_array_equal(found, np.arange(len(grid(name))))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_on_the_grid_stays_there(name, seed):
    """Blocks that use all of a format's range come back with next to no error."""
    rng = np.random.default_rng(seed)
    packed = packed_of(name, (rng.standard_normal((8, 512))).astype(np.float32), None)
    x = weights_of(name, packed)
    again = weights_of(name, packed_of(name, x, None))
    assert np.square(again - x).sum() < 0.1 * np.square(x).sum()


@pytest.mark.parametrize("name", LAYOUTS)
def test_packed_fields_are_where_gguf_reads_them(name):
    """gguf's own reader and ours agree on what was written, bit for bit."""
    x = tensor_of(3)
    packed = packed_of(name, x, None)
    theirs = gguf.quants.dequantize(packed, GGMLQuantizationType[name])
    np.testing.assert_array_equal(weights_of(name, packed), theirs)
    assert np.square(theirs - x).sum() < 0.6 * np.square(x).sum()


@pytest.mark.parametrize("name", LAYOUTS)
def test_importance_of_zero_throughout_is_none_at_all(name):
    x = tensor_of(1)
    none = packed_of(name, x, None)
    np.testing.assert_array_equal(packed_of(name, x, np.zeros(x.shape[1], np.float32)), none)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_scale_of_the_importance_does_not_matter(name):
    x = tensor_of(2)
    importance = random_importance(0, x.shape[1]) + np.float32(0.1)
    expected = packed_of(name, x, importance)
    for factor in (2.0**-40, 2.0**40):
        scaled = importance * np.float32(factor)
        np.testing.assert_array_equal(packed_of(name, x, scaled), expected)


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ2_XS", "IQ3_XXS"])
def test_the_product_of_eight_signs_is_positive(name):
    x = tensor_of(0)
    y = weights_of(name, packed_of(name, x, None))
    y = y[np.abs(y).reshape(len(y), -1, 8).min(axis=2).repeat(8, axis=1) > 0].reshape(-1, 8)
    assert len(y) > 100
    assert ((y < 0).sum(axis=1) % 2 == 0).all()


@pytest.mark.parametrize("name", LAYOUTS)
def test_huge_weights_get_the_largest_finite_scale(name):
    x = np.linspace(-3e38, 3e38, 256, dtype=np.float32).reshape(1, -1)
    for importance in (None, random_importance(0, 256)):
        y = weights_of(name, packed_of(name, x, importance))
        assert np.isfinite(y).all()
        assert (y[0, -16:] > 1e5).all()
