from pathlib import Path
from struct import pack

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imatrix_files import dat_bytes, dat_entry, string

from qconvert.calibration.imatrix import read_importance
from qconvert.errors import CheckpointError

QUERY = "blk.0.attn_q.weight"
DOWN = "blk.0.ffn_down_exps.weight"
MEANS = {
    QUERY: np.linspace(0, 9, 64, dtype=np.float32),
    DOWN: np.arange(3 * 32, dtype=np.float32).reshape(3, 32) + 1,
}
WHOLE = dat_bytes([dat_entry(name, means, 3) for name, means in MEANS.items()])


def read(tmp_path: Path, data: bytes):
    path = tmp_path / "imatrix.dat"
    path.write_bytes(data)
    return read_importance(path)


def test_values_are_means_times_the_calls(tmp_path):
    importance = read(tmp_path, WHOLE)
    assert list(importance.values) == [QUERY, DOWN]
    for name, means in MEANS.items():
        np.testing.assert_allclose(importance.values[name], means.reshape(1, -1), rtol=2e-7)
    assert importance.undivided
    assert (importance.datasets, importance.chunk_count) == (("a.txt",), 12)


def test_values_of_no_calls_are_taken_as_they_are(tmp_path):
    importance = read(tmp_path, dat_bytes([dat_entry(QUERY, MEANS[QUERY], 0)]))
    np.testing.assert_array_equal(importance.values[QUERY][0], MEANS[QUERY])


@pytest.mark.parametrize(("trailer", "chunks"), [(b"", 0), (pack("<i", 7), 7)])
def test_the_end_may_be_missing(tmp_path, trailer, chunks):
    importance = read(tmp_path, dat_bytes([dat_entry(QUERY, MEANS[QUERY], 1)], trailer))
    assert (importance.datasets, importance.chunk_count) == ((), chunks)


def test_a_weight_of_zeros_has_ones_and_is_named(tmp_path):
    importance = read(tmp_path, dat_bytes([dat_entry(QUERY, np.zeros(64, np.float32), 2)]))
    np.testing.assert_array_equal(importance.values[QUERY], np.ones((1, 64), np.float32))
    assert importance.unseen == {QUERY: (0,)}


@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-1.0, "below zero")]
)
def test_numbers_that_cannot_be_are_refused_with_the_tensors_name(tmp_path, value, word):
    means = MEANS[DOWN].copy()
    means[1, 7] = value
    with pytest.raises(CheckpointError, match=f"{DOWN}.*{word}"):
        read(tmp_path, dat_bytes([dat_entry(DOWN, means, 2)]))


def test_a_file_cut_anywhere_but_behind_its_entries_is_refused(tmp_path):
    last = len(WHOLE) - len(pack("<i", 12) + string(b"a.txt"))
    for length in range(len(WHOLE)):
        if length in (last, last + 4):
            continue
        with pytest.raises(CheckpointError):
            read(tmp_path, WHOLE[:length])


ENTRY = dat_entry(QUERY, MEANS[QUERY], 3)
NAME = len(QUERY)


@pytest.mark.parametrize("number", [-1, 0, 1 << 30, -(1 << 31), (1 << 31) - 1])
@pytest.mark.parametrize(
    ("place", "why"),
    [
        (0, "not an importance matrix"),  # entries
        (4, "not an importance matrix"),  # length of the first name
        (4 + 4 + NAME + 4, f"{QUERY}"),  # values
        (4 + len(ENTRY), "cannot have|cut short|has no name"),  # length of the second name
        (len(WHOLE) - 9, "cannot have|cut short|no name"),  # length of the text
    ],
)
def test_hostile_counts_and_lengths_are_refused_before_memory_is_asked_for(
    tmp_path, number, place, why
):
    data = bytearray(WHOLE)
    data[place : place + 4] = pack("<i", number)
    with pytest.raises(CheckpointError, match=why):
        read(tmp_path, bytes(data))


def test_negative_calls_and_chunks_are_refused(tmp_path):
    data = bytearray(dat_bytes([ENTRY]))
    data[8 + NAME : 12 + NAME] = pack("<i", -3)
    with pytest.raises(CheckpointError, match=f"{QUERY}.*-3 calls"):
        read(tmp_path, bytes(data))
    with pytest.raises(CheckpointError, match="no name of a text"):
        read(tmp_path, dat_bytes([ENTRY], pack("<i", -1)))


def test_a_name_twice_bytes_behind_the_end_and_garbled_names_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=f"{QUERY} appears twice"):
        read(tmp_path, dat_bytes([ENTRY, ENTRY]))
    with pytest.raises(CheckpointError, match="ends in what is no name"):
        read(tmp_path, WHOLE + b"x")
    with pytest.raises(CheckpointError, match="entry 2 is no text"):
        read(tmp_path, dat_bytes([ENTRY, string(b"\xff\xfe") + ENTRY[4 + NAME :]]))


@given(st.data())
def test_a_changed_byte_is_read_as_finite_importances_or_refused(tmp_path_factory, data):
    mutated = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(WHOLE) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.dat"
    path.write_bytes(bytes(mutated))
    try:
        importance = read_importance(path)
    except CheckpointError:
        return
    for values in importance.values.values():
        assert np.isfinite(values).all()
        assert (values >= 0).all()
        assert values.any(axis=1).all()
