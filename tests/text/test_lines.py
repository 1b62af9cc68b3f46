import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qconvert.errors import CheckpointError
from qconvert.text.lines import check_text, read_lines, read_lines_in_parts, read_parts


@pytest.fixture
def write(tmp_path: Path):
    def make(data: bytes) -> Path:
        path = tmp_path / "notes.txt"
        path.write_bytes(data)
        return path

    return make


def draw(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (gzip.compress(b"text", mtime=0), "gzip"),
        (b"PK\x03\x04...", "zip"),
        (b"PAR1", "Parquet"),
        (b"%PDF-1.7", "PDF"),
        ("text".encode("utf-16"), "UTF-16"),
        (b"\x7fELF\0\0\0", "zero bytes"),
    ],
)
def test_what_is_no_text_is_called_by_its_name(write, data, said):
    with pytest.raises(CheckpointError, match=said) as caught:
        check_text(write(data), "notes.txt")
    assert caught.value.hint


def test_a_directory_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="directory"):
        check_text(tmp_path, "notes")
    with pytest.raises(CheckpointError, match="no such file"):
        check_text(tmp_path / "none.txt", "none.txt")


def test_a_wrong_byte_is_named_with_its_line_and_place(write):
    path = write("eins\nzwei\nfünf\n".encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"0xfc at line 3, byte 11") as caught:
        list(read_lines(path, "notes.txt"))
    assert "iconv" in caught.value.hint


def test_the_byte_order_mark_is_no_text(write):
    path = write("\ufefffirst\nsecond".encode())
    assert list(read_lines(path, "n")) == [(1, "first\n"), (2, "second")]
    parts = read_lines_in_parts(path, "n", path.stat().st_size, 1, 100, draw(0))
    assert [line for _, line in parts] == ["first\n", "second"]


TEXTS = st.lists(st.text(st.sampled_from("aé世𝄞 \n"), min_size=1), min_size=1).map("".join)


@given(TEXTS, st.integers(1, 8), st.integers(1, 40), st.integers(0, 5))
def test_pieces_of_a_text_never_overlap_and_hold_whole_characters(
    tmp_path_factory, text, parts, length, seed
):
    path = tmp_path_factory.mktemp("pieces") / "t.txt"
    data = text.encode()
    path.write_bytes(data)
    end = 0
    for start, piece in read_parts(path, len(data), parts, length, draw(seed)):
        assert start >= end
        assert len(piece) <= length
        assert data[start : start + len(piece)] == piece
        if length >= 4:
            piece.decode()
        end = start + len(piece)


@given(TEXTS, st.integers(1, 8), st.integers(1, 40), st.integers(0, 5))
def test_lines_of_a_large_file_are_whole_and_come_once(tmp_path_factory, text, parts, length, seed):
    path = tmp_path_factory.mktemp("lines") / "t.txt"
    data = text.encode()
    path.write_bytes(data)
    starts = {0}
    for line in data.split(b"\n"):
        starts.add(max(starts) + len(line) + 1)
    found = list(read_lines_in_parts(path, "t", len(data), parts, length, draw(seed)))
    places = [start for start, _ in found]
    assert places == sorted(set(places))
    for start, line in found:
        assert start in starts
        assert data[start:].startswith(line.encode())
        assert line.endswith("\n") or start + len(line.encode()) == len(data)


def test_pieces_lie_all_over_a_file_and_begin_with_lines(write):
    lines = [f"line {n:06}\n".encode() for n in range(10_000)]
    path = write(b"".join(lines))
    found = list(read_parts(path, path.stat().st_size, 10, 300, draw(1)))
    assert len(found) == 10
    for number, (start, piece) in enumerate(found):
        assert number * 12_000 <= start < (number + 1) * 12_000
        assert piece.splitlines(keepends=True)[0] in lines
        assert piece.endswith(b"\n")
