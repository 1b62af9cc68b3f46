"""Hub ids as people copy them."""

import pytest

from qconvert.checkpoint.open import locate
from qconvert.errors import CheckpointError


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("https://huggingface.co/org/name", ("org/name", None, None)),
        ("https://huggingface.co/org/name/", ("org/name", None, None)),
        ("huggingface.co/org/name/tree/main", ("org/name", None, None)),
        ("https://hf.co/org/name/tree/v2?x=1", ("org/name", None, "v2")),
        ("hf.co/org/name", ("org/name", None, None)),
        ("hf://org/name", ("org/name", None, None)),
        ("https://huggingface.co/o/n/blob/main/a/b.gguf", ("o/n", "a/b.gguf", None)),
        ("https://huggingface.co/o/n/resolve/v2/b.gguf?download=true", ("o/n", "b.gguf", "v2")),
        ("org/name@v2", ("org/name", None, "v2")),
    ],
)
def test_an_address_is_a_hub_id(monkeypatch, address, asked):
    seen = []
    monkeypatch.setattr("qconvert.checkpoint.hub.fetch", lambda *words: seen.append(words[:3]))
    locate(address)
    assert seen == [asked]


@pytest.mark.parametrize("address", ["https://example.org/org/name", "https://hf.co/org", "a b/c"])
def test_another_address_is_none(address):
    with pytest.raises(CheckpointError, match="no such file"):
        locate(address)
