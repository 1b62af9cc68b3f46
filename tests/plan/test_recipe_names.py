"""What outputs are called after, where nothing else is said."""

from pathlib import Path

import pytest

from qconvert.checkpoint.open import locate
from qconvert.plan.recipe import Recipe, model_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("org/name", "name"),
        ("org/name@main", "name"),
        ("org/name:file-Q8_0.gguf@main", "file-Q8_0"),
        ("sp-00001-of-00003.gguf", "sp"),
        ("mine.safetensors", "mine"),
        ("models/SmolLM2-1.7B/", "SmolLM2-1.7B"),
        ("..", "model"),
    ],
)
def test_names(source: str, name: str) -> None:
    assert model_name(source) == name
    assert Recipe("q4_k_m").path(source) == Path(f"{name}-Q4_K_M.gguf")


def test_a_snapshot_and_the_usual_file_are_called_after_their_model(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--a--b" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    for place in (snapshot, snapshot / "model.safetensors"):
        assert locate(str(place))[0] == f"org/a--b@{COMMIT}"
    plain = tmp_path / "SmolLM2"
    plain.mkdir()
    (plain / "pytorch_model.bin").touch()
    assert locate(str(plain / "pytorch_model.bin"))[0] == "SmolLM2"
