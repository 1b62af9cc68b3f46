"""Classes without a family: their linear layers are those of transformers' modules, and
transformers computes with what is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import Family, random_tokens, save_model, sizes
from compressed_models import load_model, outputs, quantized, reference_model, write_plan
from encoder_models import save_encoder

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import UnsupportedError
from qconvert.machine.watcher import Silent
from qconvert.model.by_modules import open_by_modules
from qconvert.plan.recipe import Recipe
from qconvert.run.quantize import plan_outputs
from qconvert.run.types import Run

HELIUM = Family("HeliumForCausalLM", "HeliumConfig", sizes(192, 6, 2, 32, 416, 2))
OPT = Family(
    "OPTForCausalLM",
    "OPTConfig",
    {"hidden_size": 192, "word_embed_proj_dim": 192, "ffn_dim": 416, "num_attention_heads": 6}
    | {"num_hidden_layers": 2, "max_position_embeddings": 96},
)


def save(name: str, folder: Path) -> None:
    if name == "MPNetModel":
        save_encoder(name, folder)
    else:
        save_model({"Helium": HELIUM, "OPT": OPT}[name], folder, tied=name == "OPT")


def plan_of(source: Path, output: Path, type_: str, **options: Any) -> Any:
    recipe = Recipe(type_, output=output, **options)
    (plan,) = plan_outputs(open_checkpoint(str(source)), [recipe], Run(2, Silent()))
    return plan


@pytest.mark.parametrize("name", ["MPNetModel", "Helium", "OPT"])
@pytest.mark.parametrize("type_", ["w8a16", "w4a16"])
def test_transformers_computes_with_them(name: str, type_: str, tmp_path: Path) -> None:
    save(name, tmp_path / "m")
    plan = plan_of(tmp_path / "m", tmp_path / "out", type_)
    write_plan(plan, tmp_path / "out")
    assert any("no family" in notice for notice in plan.notices)
    tokens = random_tokens(24)
    expected = outputs(reference_model(plan, tmp_path / "out"), tokens)
    computed = outputs(load_model(tmp_path / "out"), tokens)
    assert np.abs(computed - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
    names = [one.weight.name for one in quantized(plan)]
    assert names
    assert all(any(part.isdigit() for part in name.split(".")) for name in names)
    assert not any("embed" in name or "lm_head" in name for name in names)


def test_there_is_no_gguf_of_them(tmp_path: Path) -> None:
    save("MPNetModel", tmp_path / "m")
    with pytest.raises(UnsupportedError, match=r"llama\.cpp does not run MPNetModel"):
        plan_of(tmp_path / "m", tmp_path / "out.gguf", "q8_0")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["InternLM2ForCausalLM"]}, "is not in transformers"),
        ({"architectures": ["AutoModel"]}, "has no such class"),
        ({"architectures": ["OPTForCausalLM"], "model_type": "opt"}, "by the names of"),
        ({"hidden_size": "many"}, "cannot build"),
    ],
)
def test_what_transformers_does_not_have_so_is_refused(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    save("MPNetModel", tmp_path)
    place = tmp_path / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))
    with pytest.raises(UnsupportedError, match=says):
        open_by_modules(open_checkpoint(str(tmp_path)))
