"""Weights under mlx-lm's names: experts stacked, roots as its modules have them."""

from pathlib import Path

import numpy as np
import pytest
from common import convert_model, save_model, wrap_gemma3
from mlx_models import save_wide

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import UnsupportedError
from qconvert.model.assemble import assemble
from qconvert.model.mlx.families import mlx_family
from qconvert.model.mlx.weights import is_matrix, mlx_weights
from qconvert.model.open import Model, open_model
from qconvert.model.weights import Weight


def opened(path: Path) -> tuple[Model, dict[str, Weight]]:
    model = open_model(open_checkpoint(str(path)))
    return model, {weight.name: weight for weight in mlx_weights(model, mlx_family(model.config))}


def rows_of(model: Model, weight: Weight) -> np.ndarray:
    rows = assemble(weight.map, model.checkpoint.tensors, 0, weight.map.rows)
    return rows.reshape(weight.map.shape)


@pytest.mark.parametrize(
    ("family", "stack"),
    [("qwen3_moe", "mlp.switch_mlp"), ("mixtral", "block_sparse_moe.switch_mlp")],
)
def test_experts_are_stacked(family, stack, tmp_path):
    transformers = save_model(family, tmp_path / "m")
    convert_model(tmp_path / "m", tmp_path / "m.gguf", "f32")
    experts = transformers.model.layers[1].mlp.experts
    gate, up = experts.gate_up_proj.detach().chunk(2, dim=1)
    wanted = {"gate_proj": gate, "up_proj": up, "down_proj": experts.down_proj.detach()}
    for source in ("m", "m.gguf"):
        model, weights = opened(tmp_path / source)
        assert not [name for name in weights if ".experts." in name]
        for part, values in wanted.items():
            weight = weights[f"model.layers.1.{stack}.{part}.weight"]
            np.testing.assert_array_equal(rows_of(model, weight), values.numpy())


def test_fused_experts_are_the_same_stacks(tmp_path):
    """As transformers 5 has them in memory, and may store them."""
    from safetensors.torch import save_file

    transformers = save_model("qwen3_moe", tmp_path / "m")
    state = {name: tensor.contiguous() for name, tensor in transformers.state_dict().items()}
    (tmp_path / "m" / "model.safetensors").unlink()
    save_file(state, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    model, weights = opened(tmp_path / "m")
    down = weights["model.layers.0.mlp.switch_mlp.down_proj.weight"]
    wanted = transformers.model.layers[0].mlp.experts.down_proj.detach().numpy()
    np.testing.assert_array_equal(rows_of(model, down), wanted)
    gate = weights["model.layers.0.mlp.switch_mlp.gate_proj.weight"]
    assert gate.map.shape == (5, 96, 192)


def test_gpt2_is_turned_and_its_positions_are_a_matrix(tmp_path):
    transformers = save_wide("gpt2", tmp_path / "m")
    model, weights = opened(tmp_path / "m")
    own = rows_of(model, weights["model.h.0.mlp.c_fc.weight"])
    np.testing.assert_array_equal(own, transformers.transformer.h[0].mlp.c_fc.weight.detach().T)
    assert is_matrix(weights["model.wpe.weight"])
    assert not is_matrix(weights["model.h.0.ln_1.weight"])
    assert "lm_head.weight" not in weights


def test_gpt2_with_an_output_of_its_own_is_refused(tmp_path):
    save_wide("gpt2", tmp_path / "m", tied=False)
    with pytest.raises(UnsupportedError, match="output projection"):
        opened(tmp_path / "m")


def test_a_multimodal_models_text_is_wrapped(tmp_path):
    save_wide("gemma3", tmp_path / "m")
    wrap_gemma3(tmp_path / "m")
    _, weights = opened(tmp_path / "m")
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in weights
    assert "language_model.lm_head.weight" in weights


def test_a_gguf_files_heads_have_transformers_order(tmp_path):
    transformers = save_model("llama", tmp_path / "m", wide=True)
    convert_model(tmp_path / "m", tmp_path / "m.gguf", "f32")
    model, weights = opened(tmp_path / "m.gguf")
    own = rows_of(model, weights["model.layers.0.self_attn.q_proj.weight"])
    wanted = transformers.model.layers[0].self_attn.q_proj.weight.detach()
    np.testing.assert_array_equal(own, wanted)
