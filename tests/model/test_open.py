"""What a checkpoint means is asked of it once, and what means nothing is said."""

from pathlib import Path

import pytest
from common import convert_model, save_model

from qconvert.checkpoint import Checkpoint, open_checkpoint
from qconvert.checkpoint.metadata import u32
from qconvert.errors import CheckpointError
from qconvert.model.open import open_model


@pytest.mark.parametrize("metadata", [{}, {"general.architecture": u32(3)}])
def test_a_gguf_file_without_an_architecture_holds_no_model(metadata) -> None:
    checkpoint = Checkpoint("gguf", "x.gguf", Path("x.gguf"), metadata=metadata)
    with pytest.raises(CheckpointError, match="holds no model"):
        open_model(checkpoint)


def test_both_containers_mean_the_same(tmp_path: Path) -> None:
    save_model("qwen3_moe", tmp_path / "m")
    convert_model(tmp_path / "m", tmp_path / "m.gguf", "f32")
    one, other = (open_model(open_checkpoint(str(tmp_path / name))) for name in ("m", "m.gguf"))
    assert one.architecture == other.architecture
    assert one.family is other.family
    assert one.shapes == other.shapes
    assert one.tied == other.tied
    named = [
        {(w.name, w.gguf, w.role, w.block, w.expert) for w in model.weights}
        for model in (one, other)
    ]
    assert named[0] == named[1]
