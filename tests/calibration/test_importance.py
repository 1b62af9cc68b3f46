from pathlib import Path

import numpy as np
import pytest

from qconvert.calibration.importance import Importance, importance_of, match_importance, reach_lines
from qconvert.calibration.types import BINS, PEAK_BINS, Calibration, InputStatistics
from qconvert.errors import PlanError
from qconvert.text.types import Sample

DOWN = "blk.0.ffn_down_exps.weight"
QUERY = "blk.0.attn_q.weight"
KEY = "blk.0.attn_k.weight"

MODEL = {
    "token_embd.weight": (320, 256),
    QUERY: (64, 256),
    DOWN: (3, 256, 96),
    "blk.0.attn_norm.weight": (256,),
    "blk.0.ffn_gate_inp.weight": (3, 256),
}


@pytest.fixture
def importance(tmp_path):
    values = {QUERY: np.ones((1, 256), np.float32), DOWN: np.ones((3, 96), np.float32)}
    return Importance(tmp_path / "im.gguf", values)


def test_a_matrix_for_every_weight_gives_no_warning(importance):
    assert match_importance(importance, MODEL) == (importance, [])


def test_weights_without_importance_are_reported(importance):
    _, (warning,) = match_importance(importance, MODEL | {"blk.1.attn_q.weight": (64, 256)})
    assert "lacks 1 tensor (blk.1.attn_q.weight)" in warning


def test_experts_that_calibration_never_reached_are_reported(importance):
    unseen = Importance(importance.path, importance.values, unseen={DOWN: (0, 2)})
    _, (warning,) = match_importance(unseen, MODEL)
    assert f"2 matrices ({DOWN}[0], {DOWN}[2])" in warning


def test_importances_that_the_model_has_no_use_for_are_reported(importance):
    _, (warning,) = match_importance(
        importance, {name: MODEL[name] for name in MODEL if name != DOWN}
    )
    assert DOWN in warning


@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [
        (QUERY, (64, 288), "256 columns.*288 columns"),
        (DOWN, (4, 256, 96), "3 x 96 columns.*4 x 96 columns"),
        (DOWN, (256, 96), "3 x 96 columns.*has 96 columns"),
    ],
)
def test_another_size_is_an_error_that_names_the_tensor_and_both_sizes(
    importance, name, shape, sizes
):
    with pytest.raises(PlanError, match=f"{name}.*{sizes}"):
        match_importance(importance, MODEL | {name: shape})


def test_the_matrix_of_another_model_is_an_error(importance):
    with pytest.raises(PlanError, match="another model"):
        match_importance(importance, {"blk.0.ffn_up.weight": (64, 256)})


def test_matrices_that_lie_end_to_end_are_divided_as_the_model_says(tmp_path):
    rows = np.random.default_rng(1).uniform(0.1, 2, (3, 96)).astype(np.float32)
    values = {QUERY: np.ones((1, 256), np.float32) * 3, DOWN: rows.reshape(1, -1)}
    flat = Importance(tmp_path / "imatrix.dat", values, undivided=True)
    matched, warnings = match_importance(flat, MODEL)
    np.testing.assert_array_equal(matched.values[DOWN], rows)
    assert not matched.undivided
    assert not warnings


@pytest.mark.parametrize("value", [0, 1])
def test_a_divided_matrix_of_zeros_or_of_ones_was_never_seen(tmp_path, value):
    rows = np.full((3, 96), 0.5, np.float32)
    rows[1] = value
    flat = Importance(tmp_path / "imatrix.dat", {DOWN: rows.reshape(1, -1)}, undivided=True)
    matched, warnings = match_importance(flat, MODEL)
    assert matched.unseen == {DOWN: (1,)}
    np.testing.assert_array_equal(matched.values[DOWN][1], np.ones(96, np.float32))
    assert any(f"{DOWN}[1]" in warning for warning in warnings)


def test_a_row_that_does_not_divide_is_an_error(tmp_path):
    flat = Importance(tmp_path / "a.dat", {DOWN: np.ones((1, 4 * 96), "f4")}, undivided=True)
    with pytest.raises(PlanError, match=rf"{DOWN}.*384 columns.*3 x 96 columns"):
        match_importance(flat, MODEL)


# From a calibration


def statistics(weights: tuple[str, ...], sums: np.ndarray, count: list[int]) -> InputStatistics:
    """What importance is made of, the rest empty."""
    nothing = np.zeros_like(sums)
    number = len(sums)
    return InputStatistics(
        weights=weights,
        count=np.array(count, np.int64),
        sum_squares=sums.astype(np.float32),
        mean=nothing,
        minimum=nothing,
        maximum=nothing,
        histogram=np.zeros((number, BINS), np.int64),
        peaks=np.zeros((number, PEAK_BINS), np.int64),
        energies=np.zeros((number, PEAK_BINS)),
    )


def calibration(*inputs: InputStatistics) -> Calibration:
    sample = Sample(np.zeros((4, 16), np.int32), "a.txt", 0)
    return Calibration(
        Path("calib.safetensors"), sample, {one.weights[0]: one for one in inputs}, "model", "hash"
    )


def test_a_calibration_gives_every_weight_the_mean_square_of_its_input():
    sums = np.arange(1, 257, dtype=np.float32).reshape(1, 256)
    importance = importance_of(calibration(statistics((QUERY, KEY), sums, [64])))
    for name in (QUERY, KEY):
        np.testing.assert_array_equal(importance.values[name], sums / np.float32(64))
    assert (importance.datasets, importance.chunk_count, importance.chunk_size) == (
        ("a.txt",),
        4,
        16,
    )
    assert importance.path.name == "calib.safetensors"
    assert not importance.unseen


def test_an_expert_that_few_tokens_chose_gets_the_mean_of_its_layer_and_is_named():
    sums = np.array([[200, 400], [0, 0], [900, 600], [10, 0]], np.float32)
    importance = importance_of(calibration(statistics((DOWN,), sums, [200, 0, 300, 5])))
    whole = sums.sum(axis=0) / 505
    np.testing.assert_allclose(importance.values[DOWN], [[1, 2], whole, [3, 2], whole], rtol=1e-6)
    assert importance.unseen == {DOWN: (1,)}
    assert importance.rare == {DOWN: (3,)}
    unseen, rare = reach_lines(importance)
    assert f"{DOWN}[1]" in unseen
    assert f"{DOWN}[3]" in rare


def test_a_dense_weight_has_its_own_importance_however_few_the_tokens():
    importance = importance_of(calibration(statistics((QUERY,), np.ones((1, 8)), [3])))
    assert not importance.rare
    assert not importance.unseen


def test_where_no_expert_saw_a_token_nothing_is_preferred():
    importance = importance_of(calibration(statistics((DOWN,), np.zeros((2, 3)), [0, 0])))
    np.testing.assert_array_equal(importance.values[DOWN], np.ones((2, 3), np.float32))
    assert importance.unseen == {DOWN: (0, 1)}
