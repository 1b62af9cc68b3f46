"""What cannot be cut is refused by name, before anything runs."""

from pathlib import Path

import pytest
from common import save_model, wrap_gemma3
from pruned_models import drawn_cut

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import UnsupportedError
from qconvert.model.open import open_model
from qconvert.plan.pruning.cut import shape_of
from qconvert.plan.pruning.plan import check_can_be_cut, make_smaller


@pytest.mark.parametrize(
    ("family", "part", "said"),
    [
        ("qwen2", "groups", "qwen2: the smaller model could not become a GGUF file"),
        ("phi3", "groups", "phi3: the smaller model could not become a GGUF file"),
        ("olmo2", "hidden", "olmo2: the smaller model could not become a GGUF file"),
        ("smollm3", "layers", "smollm3: the smaller model could not become a GGUF file"),
        ("gpt2", "groups", "gpt2 cannot have these sizes"),
        ("gpt2", "hidden", "gpt2 cannot have these sizes"),
    ],
)
def test_parts_that_a_family_cannot_have_smaller(family: str, part: str, said: str, tmp_path: Path):
    save_model(family, tmp_path)
    model = open_model(open_checkpoint(str(tmp_path)))
    with pytest.raises(UnsupportedError, match=said):
        make_smaller(model, drawn_cut(part, shape_of(model)), {})


def test_encoders_and_models_that_see_are_refused(tmp_path: Path):
    save_model("bert", tmp_path / "bert")
    with pytest.raises(UnsupportedError, match="is an encoder"):
        check_can_be_cut(open_model(open_checkpoint(str(tmp_path / "bert"))))
    save_model("gemma3", tmp_path / "gemma3")
    wrap_gemma3(tmp_path / "gemma3")
    with pytest.raises(UnsupportedError, match="sees more than text"):
        check_can_be_cut(open_model(open_checkpoint(str(tmp_path / "gemma3"))))
