"""A model with a tokenizer, and texts."""

from pathlib import Path

import pytest
from speaking_models import save_speaking_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_speaking_model(tmp_path_factory.mktemp("windows") / "model")


@pytest.fixture(scope="module")
def without_bos(tmp_path_factory) -> Path:
    return save_speaking_model(tmp_path_factory.mktemp("windows") / "plain", before=None)


@pytest.fixture
def write(tmp_path):
    def make(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return str(path)

    return make
