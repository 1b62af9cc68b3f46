import numpy as np
import pytest

from qconvert.report.records import Keep, content_digest

ABOUT = ("digest", 512, None)


def test_what_is_put_is_found_and_nothing_else_is(tmp_path):
    keep = Keep(tmp_path)
    arrays = {"loss": np.arange(6.0).reshape(2, 3), "same": np.array([True, False])}
    keep.put("scores", ABOUT, {"a": 1.5}, arrays)
    assert keep.find("scores", ABOUT) == {"a": 1.5}
    found = keep.find_arrays("scores", ABOUT)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    for kind, about in (("speed", ABOUT), ("scores", ("digest", 513, None)), ("scores", ())):
        assert keep.find(kind, about) is None
        assert keep.find_arrays(kind, about) is None


@pytest.mark.parametrize("junk", [b"", b"{", b"\xff\xfe", b"PK\x03\x04 and no more"])
def test_a_damaged_record_is_none(tmp_path, junk):
    keep = Keep(tmp_path)
    keep.put("scores", ABOUT, {"a": 1.5}, {"loss": np.arange(6.0)})
    for path in tmp_path.iterdir():
        path.write_bytes(junk)
    assert keep.find("scores", ABOUT) is None
    assert keep.find_arrays("scores", ABOUT) is None


def test_files_are_told_apart_by_size_and_by_what_is_in_them(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8).tobytes()
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(data)
    other.write_bytes(data)
    assert content_digest([one]) == content_digest([other])
    other.write_bytes(data + b"\0")
    assert content_digest([one]) != content_digest([other])
    other.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert content_digest([one]) != content_digest([other])
    assert content_digest([one]) != content_digest([one, one])
    one.write_bytes(b"")
    content_digest([one])


@pytest.mark.parametrize(
    "text", ["7", "[]", "{}", "[" * 100_000, '{"data": {"a": 2}, "digest": ""}']
)
def test_a_record_that_somebody_has_damaged_is_none(tmp_path, text: str) -> None:
    keep = Keep(tmp_path)
    keep.put("kind", (1,), {"a": 1})
    assert keep.find("kind", (1,)) == {"a": 1}
    (file,) = tmp_path.glob("*.json")
    file.write_text(text)
    assert keep.find("kind", (1,)) is None
