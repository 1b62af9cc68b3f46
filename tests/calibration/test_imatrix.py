from pathlib import Path

import numpy as np
import pytest
from imatrix_files import write_imatrix

from qconvert.calibration.imatrix import read_importance
from qconvert.errors import CheckpointError

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
