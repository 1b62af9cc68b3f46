import struct
from pathlib import Path

import numpy as np
import pytest
from imatrix_files import write_imatrix

from qconvert.calibration.imatrix import Importance, check_importance, read_importance
from qconvert.errors import CheckpointError, PlanError, UnsupportedError

DOWN = "blk.0.ffn_down_exps.weight"
QUERY = "blk.0.attn_q.weight"
SUMS = {
    QUERY: np.linspace(0, 9, 256, dtype=np.float32).reshape(1, 256),
    DOWN: np.arange(3 * 96, dtype=np.float32).reshape(3, 96) + 1,
}
COUNTS = {QUERY: [7], DOWN: [5, 0, 3]}


def write(path: Path, sums=SUMS, counts=COUNTS, **settings):
    return write_imatrix(path, sums, counts, **settings)


def test_importance_is_the_sum_over_the_count_of_each_matrix(tmp_path):
    importance = read_importance(write(tmp_path / "im.gguf"))
    assert set(importance.values) == {QUERY, DOWN}
    assert all(value.dtype == np.float32 for value in importance.values.values())
    np.testing.assert_array_equal(importance.values[QUERY], SUMS[QUERY] / np.float32(7))
    np.testing.assert_array_equal(importance.values[DOWN][0], SUMS[DOWN][0] / np.float32(5))
    np.testing.assert_array_equal(importance.values[DOWN][2], SUMS[DOWN][2] / np.float32(3))


def test_a_matrix_that_was_never_seen_has_ones_and_is_named(tmp_path):
    importance = read_importance(write(tmp_path / "im.gguf"))
    np.testing.assert_array_equal(importance.values[DOWN][1], np.ones(96, np.float32))
    assert importance.unseen == {DOWN: (1,)}
    sums = SUMS | {QUERY: np.zeros((1, 256), np.float32)}
    importance = read_importance(write(tmp_path / "zero.gguf", sums))
    assert importance.unseen == {QUERY: (0,), DOWN: (1,)}
    assert importance.values[QUERY].min() == 1


def test_what_it_was_measured_on_is_read(tmp_path):
    importance = read_importance(write(tmp_path / "im.gguf"))
    assert importance.datasets == ("a.txt", "b.txt")
    assert (importance.chunk_count, importance.chunk_size) == (12, 512)
    assert importance.path == tmp_path / "im.gguf"


def test_one_count_may_serve_all_matrices(tmp_path):
    importance = read_importance(write(tmp_path / "im.gguf", counts=COUNTS | {DOWN: [4]}))
    np.testing.assert_array_equal(importance.values[DOWN], SUMS[DOWN] / np.float32(4))


@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-1.0, "below zero")]
)
@pytest.mark.parametrize("where", ["sums", "counts"])
def test_numbers_that_cannot_be_are_refused_with_the_tensors_name(tmp_path, where, value, word):
    sums, counts = {name: array.copy() for name, array in SUMS.items()}, dict(COUNTS)
    if where == "sums":
        sums[DOWN][1, 7] = value
    else:
        counts[DOWN] = [1, value, 2]
    with pytest.raises(CheckpointError, match=f"{DOWN} has {where}.*{word}"):
        read_importance(write(tmp_path / "im.gguf", sums, counts))


def test_counts_for_another_number_of_matrices_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=f"{DOWN} has sums for 3 matrices and counts for 2"):
        read_importance(write(tmp_path / "im.gguf", counts=COUNTS | {DOWN: [1, 2]}))


@pytest.mark.parametrize("lost", ["sums", "counts"])
def test_sums_without_counts_and_counts_without_sums_are_refused(tmp_path, lost):
    sums, counts = dict(SUMS), dict(COUNTS)
    del {"sums": sums, "counts": counts}[lost][DOWN]
    with pytest.raises(CheckpointError, match=f"{DOWN} has no"):
        read_importance(write(tmp_path / "im.gguf", sums, counts))


def test_sums_of_another_type_are_refused(tmp_path):
    sums = SUMS | {DOWN: SUMS[DOWN].astype(np.float16)}
    with pytest.raises(CheckpointError, match="F32"):
        read_importance(write(tmp_path / "im.gguf", sums))


def test_a_model_is_no_importance_matrix(tmp_path):
    with pytest.raises(CheckpointError, match="not an importance matrix") as caught:
        read_importance(write(tmp_path / "model.gguf", kind="model"))
    assert "llama-imatrix" in caught.value.hint


def test_an_importance_matrix_of_nothing_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no importances"):
        read_importance(write(tmp_path / "im.gguf", {}, {}))


def test_the_older_binary_form_is_named_with_the_way_to_convert_it(tmp_path):
    path, name = tmp_path / "imatrix.dat", QUERY.encode()
    head = struct.pack("<ii", 1, len(name)) + name
    path.write_bytes(head + struct.pack("<ii", 3, 4) + np.ones(4, "<f4").tobytes())
    with pytest.raises(UnsupportedError, match="older binary form") as caught:
        read_importance(path)
    assert "--in-file imatrix.dat" in caught.value.hint


@pytest.mark.parametrize(
    "content", [b"", b"GGU", b"\x00" * 9, b"not a matrix at all", b"\xff" * 600]
)
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "im.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not an importance matrix"):
        read_importance(path)


def test_a_missing_or_truncated_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent\.gguf"):
        read_importance(tmp_path / "absent.gguf")
    path = write(tmp_path / "im.gguf")
    whole = path.read_bytes()
    for length in range(4, len(whole) - 40, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_importance(path)


# Does it belong to the model?

MODEL = [
    ("token_embd.weight", (320, 256)),
    (QUERY, (64, 256)),
    (DOWN, (3, 256, 96)),
    ("blk.0.attn_norm.weight", (256,)),
    ("blk.0.ffn_gate_inp.weight", (3, 256)),
]


@pytest.fixture
def importance(tmp_path):
    values = {QUERY: np.ones((1, 256), np.float32), DOWN: np.ones((3, 96), np.float32)}
    return Importance(tmp_path / "im.gguf", values)


def test_a_matrix_for_every_weight_gives_no_warning(importance):
    assert check_importance(importance, MODEL) == []


def test_weights_without_importance_are_reported(importance):
    (warning,) = check_importance(importance, [*MODEL, ("blk.1.attn_q.weight", (64, 256))])
    assert "lacks 1 tensor (blk.1.attn_q.weight)" in warning


def test_experts_that_calibration_never_reached_are_reported(importance):
    unseen = Importance(importance.path, importance.values, unseen={DOWN: (0, 2)})
    (warning,) = check_importance(unseen, MODEL)
    assert f"2 matrices ({DOWN}[0], {DOWN}[2])" in warning


def test_importances_that_the_model_has_no_use_for_are_reported(importance):
    (warning,) = check_importance(importance, [tensor for tensor in MODEL if tensor[0] != DOWN])
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
    model = [tensor for tensor in MODEL if tensor[0] != name] + [(name, shape)]
    with pytest.raises(PlanError, match=f"{name}.*{sizes}"):
        check_importance(importance, model)


def test_the_matrix_of_another_model_is_an_error(importance):
    with pytest.raises(PlanError, match="another model"):
        check_importance(importance, [("blk.0.ffn_up.weight", (64, 256))])
