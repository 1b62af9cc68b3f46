"""Numbers that are not quantized: which 16 or 32 bits they get, and what is said of it."""

from pathlib import Path

import pytest
import torch
from checkpoints import Llama, write_llama
from common import convert_model, save_model
from compressed_models import load_model, plan_model, quantize_model
from packages import smollm2_gguf

from qconvert.checkpoint import open_checkpoint
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.export import make_export_plan
from qconvert.plan.types import Plan

LIKE_A_REAL_ONE = Llama(256, 6, 512, 4, 2, 3700)
"""A fifth of its weights are embeddings."""


def kept(plan: Plan) -> dict[str, str]:
    """The dtypes of what is not quantized, by name."""
    return {tensor.name: tensor.format for tensor in plan.tensors if len(tensor.slots) == 1}


@pytest.fixture(scope="module")
def q8_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    convert_model(write_llama(folder / "model", LIKE_A_REAL_ONE), folder / "q8.gguf", "q8_0")
    return folder / "q8.gguf"


@pytest.mark.parametrize("type_", ["w4a16", "nvfp4a16"])
def test_fewer_bits_than_the_source_has_make_less_of_it(q8_0: Path, type_: str) -> None:
    plan = plan_model(q8_0, type_)
    assert set(kept(plan).values()) == {"BF16"}
    assert plan.nbytes < open_checkpoint(str(q8_0)).nbytes
    (line,) = [notice for notice in plan.notices if "larger" in notice]
    assert line.endswith("Q8_0 -> BF16: model.embed_tokens.weight")
    assert "14 tensors are rounded to BF16" in plan.notices


@pytest.mark.parametrize(
    ("file_type", "dtype"),
    [("f32", "F32"), ("f16", "F16"), ("bf16", "BF16"), ("q4_0", "BF16"), ("q6_k", "BF16")],
)
def test_a_gguf_files_floats_are_those_of_most_of_it(
    file_type: str, dtype: str, tmp_path: Path
) -> None:
    model = save_model("qwen3_moe", tmp_path / "model", wide=True, num_hidden_layers=1)
    convert_model(tmp_path / "model", tmp_path / "x.gguf", file_type)
    plan = quantize_model(tmp_path / "x.gguf", tmp_path / "out", "w8a16")
    assert set(kept(plan).values()) == {dtype}
    loaded = load_model(tmp_path / "out", "auto")
    assert (
        loaded.dtype == {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    )
    norm = "model.layers.0.self_attn.q_norm.weight"
    expected = model.get_parameter(norm).to(loaded.dtype)
    assert torch.equal(loaded.get_parameter(norm), expected)


def test_a_directorys_own_float32_stays(tmp_path: Path) -> None:
    """Routers and the like, which a model's author has left wide."""
    model = save_model("qwen3_moe", tmp_path / "model").to(torch.bfloat16)
    router = "model.layers.0.mlp.gate.weight"
    model.get_parameter(router).data = model.get_parameter(router).data.float()
    model.save_pretrained(tmp_path / "model")
    plan = plan_model(tmp_path / "model", "w8a16")
    assert {name for name, dtype in kept(plan).items() if dtype == "F32"} == {router}


def larger(plan: Plan) -> list[str]:
    return [notice for notice in plan.notices if "larger" in notice]


def test_an_output_that_is_larger_than_its_source_says_so(q8_0: Path) -> None:
    assert "the output is larger than its source" in larger(plan_model(smollm2_gguf(), "w4a16"))[0]
    whole, part = larger(plan_model(q8_0, "bf16"))
    assert whole == "the output is larger than its source: 8.99 MB of weights, not 4.78 MB"
    assert "Q8_0 -> BF16" in part
    exported = make_export_plan(open_checkpoint(str(q8_0)), Recipe("auto", output=Path("x")))
    assert larger(exported)[1].endswith(
        "Q8_0 -> F32: model.embed_tokens.weight, model.layers.0.self_attn.q_proj.weight, "
        "model.layers.0.self_attn.k_proj.weight and 40 more"
    )


@pytest.mark.parametrize("type_", ["q8_0", "q4_k_m", "bf16", "w8a8", "w4a16"])
def test_what_shrinks_or_stays_says_nothing_of_size(type_: str, tmp_path: Path) -> None:
    write_llama(tmp_path / "model", LIKE_A_REAL_ONE)
    assert not larger(plan_model(tmp_path / "model", type_))
