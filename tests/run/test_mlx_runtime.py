"""mlx-lm itself loads and runs what was written, and its converter writes the same bytes. Where it
is installed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import correlation, random_tokens, torch_logits, worst_difference, wrap_gemma3
from compressed_models import plan_model, quantize_model
from mlx_models import FAMILIES, put_into, restored, save_wide
from packages import write_smollm2

from qconvert.machine.watcher import Silent
from qconvert.run.outputs import write_outputs

mx = pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")

TOKENS = random_tokens(48)

ALIKE = {"mixtral": 5e-4, "qwen3_moe": 5e-4}
"""Experts are added up in another order."""

TYPES = ("mlx2", "mlx3", "mlx4", "mlx5", "mlx6", "mlx8", "mlx-mxfp4", "mlx-nvfp4", "mlx-mxfp8")


def loaded(path: Path) -> Any:
    """Its model; every weight has to be there, and no other."""
    from mlx_lm.utils import load_model

    return load_model(path)[0]


def logits(path: Path) -> np.ndarray:
    return np.array(loaded(path)(mx.array([TOKENS])).astype(mx.float32))[0]


def check_bytes(source: Path, path: Path, plan: Any, **settings: Any) -> None:
    """The directory has what mlx-lm makes of the same weights, and says the same of them."""
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_model, quantize_model

    folder = path.with_name("theirs")
    folder.mkdir()
    weights = mx.load(str(source / "model.safetensors"))
    # Its GPT-2 reads names without a root alone.
    bare = {name.removeprefix("transformer."): array for name, array in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), bare)
    config = json.loads(plan.target.files["config.json"])
    quantization = config.pop("quantization")
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    model, config = load_model(folder, lazy=True)
    model, config = quantize_model(model, config, **settings)
    assert quantization == config["quantization"]
    expected = dict(tree_flatten(model.parameters()))
    found = mx.load(str(path / "model.safetensors"))
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == expected[name].dtype, name
        assert mx.array_equal(array, expected[name]), name


def settings_of(type_: str) -> dict[str, Any]:
    if type_.startswith("mlx-"):
        return {"group_size": None, "bits": None, "mode": type_.removeprefix("mlx-")}
    return {"group_size": 64, "bits": int(type_[3:])}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_mlx_lm_computes_is_what_was_written(family: str, tmp_path: Path):
    """Against transformers, with the weights that our own formats read from the file."""
    model = save_wide(family, tmp_path / "m")
    original = torch_logits(model, TOKENS)
    plan = quantize_model(tmp_path / "m", tmp_path / "out", "mlx4")
    check_bytes(tmp_path / "m", tmp_path / "out", plan, group_size=64, bits=4)
    put_into(model, restored(plan, tmp_path / "out"))
    found = logits(tmp_path / "out")
    assert worst_difference(torch_logits(model, TOKENS), found) < ALIKE.get(family, 2e-5)
    assert correlation(original, found) > 0.5


@pytest.mark.parametrize("type_", TYPES)
def test_every_type(type_: str, tmp_path: Path):
    model = save_wide("llama", tmp_path / "m", num_hidden_layers=2).half()
    model.save_pretrained(tmp_path / "m")
    plan = quantize_model(tmp_path / "m", tmp_path / "out", type_)
    check_bytes(tmp_path / "m", tmp_path / "out", plan, **settings_of(type_))
    model = model.float()
    put_into(model, restored(plan, tmp_path / "out"))
    assert worst_difference(torch_logits(model, TOKENS), logits(tmp_path / "out")) < 0.01


@pytest.mark.parametrize("size", [32, 128])
def test_other_groups_in_bfloat16(size: int, tmp_path: Path):
    model = save_wide("qwen3", tmp_path / "m", num_hidden_layers=2).bfloat16()
    model.save_pretrained(tmp_path / "m")
    plan = quantize_model(tmp_path / "m", tmp_path / "out", "mlx4", group_size=size)
    check_bytes(tmp_path / "m", tmp_path / "out", plan, group_size=size, bits=4)


def test_layers_of_several_types_and_kept_ones(tmp_path: Path):
    model = save_wide("qwen3_moe", tmp_path / "m", num_hidden_layers=2)
    overrides = (
        ("*.down_proj.weight", "mlx6"),
        ("model.embed_tokens.weight", "mlx-mxfp8"),
        ("*.1.self_attn.*", "mlx-nvfp4"),
    )
    options = {"overrides": overrides, "keep": ("*.v_proj.weight",), "weight_range": "mse"}
    plan = quantize_model(tmp_path / "m", tmp_path / "out", "mlx3", group_size=32, **options)
    put_into(model, restored(plan, tmp_path / "out"))
    assert worst_difference(torch_logits(model, TOKENS), logits(tmp_path / "out")) < 5e-4


ROPE = {"rope_theta": 1e4, "original_max_position_embeddings": 32}
LONG = {"short_factor": [1.0] * 12, "long_factor": [1 + i / 3 for i in range(12)], "factor": 16.0}

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "rows that no group divides, and biases": ("llama", {"wide": False}),
    "biases": ("granite", {"attention_bias": True, "mlp_bias": True}),
    "layers without rotation": ("smollm3", {"num_hidden_layers": 4}),
    "blocks without experts": ("qwen3_moe", {"mlp_only_layers": [1], "norm_topk_prob": False}),
    "a tied output": ("olmo2", {"tied": True}),
    "linear": ("llama", {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}}),
    "yarn": ("qwen3", {"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 16.0}}),
    "longrope": (
        "phi3",
        {
            "original_max_position_embeddings": 32,
            "rope_parameters": {
                **ROPE, **LONG, "rope_type": "longrope", "partial_rotary_factor": 0.75
            },
        },
    ),
    "windows": (
        "smollm3",
        {
            "sliding_window": 16,
            "use_sliding_window": True,
            "layer_types": ["full_attention", "sliding_attention"],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_what_settings_ask_for(case: str, tmp_path: Path):
    family, changes = OTHERS[case]
    layers = {"num_hidden_layers": 2} if changes.get("wide", True) else {}
    model = save_wide(family, tmp_path / "m", **{**layers, **changes})
    plan = quantize_model(tmp_path / "m", tmp_path / "out", "mlx4")
    put_into(model, restored(plan, tmp_path / "out"))
    limit = ALIKE.get(family, 2e-5)
    assert worst_difference(torch_logits(model, TOKENS), logits(tmp_path / "out")) < limit


def test_the_text_of_a_multimodal_model(tmp_path: Path):
    model = save_wide("gemma3", tmp_path / "m")
    wrap_gemma3(tmp_path / "m")
    plan = quantize_model(tmp_path / "m", tmp_path / "out", "mlx4")
    weights = restored(plan, tmp_path / "out")
    put_into(model, {name.removeprefix("language_model."): w for name, w in weights.items()})
    assert worst_difference(torch_logits(model, TOKENS), logits(tmp_path / "out")) < 2e-5


def test_a_real_model_in_shards_says_what_its_weights_say(tmp_path: Path):
    """As users load it, with the tokenizer beside it; transformers says the same by greedy search
    with the weights that our formats read."""
    import mlx_lm
    import torch
    from transformers import AutoModelForCausalLM

    write_smollm2(tmp_path / "m")
    plan = plan_model(tmp_path / "m", "mlx4", output=tmp_path / "out", max_shard_size=40_000_000)
    write_outputs([plan], 2, Silent())
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    model, tokenizer = mlx_lm.load(str(tmp_path / "out"))
    prompt = "The capital of France is"
    said = mlx_lm.generate(model, tokenizer, prompt=prompt, max_tokens=8)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    put_into(reference, restored(plan, tmp_path / "out"))
    tokens = tokenizer.encode(prompt)
    made = reference.generate(torch.tensor([tokens]), max_new_tokens=8, do_sample=False)
    assert said == tokenizer.decode(made[0, len(tokens) :].tolist()).lstrip()
    assert len(said) > 8
