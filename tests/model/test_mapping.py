from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import FAMILIES
from large_models import LARGE
from plain_models import ALWAYS_TIED, SMALL

from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError, PlanError, UnsupportedError
from qconvert.model.families import BY_CLASS, find_family
from qconvert.model.mapping import map_tensors, order_of_pairs, unknown_to
from qconvert.model.types import TensorMap

Make = Callable[..., Any]
OPTIONAL = ("pooler.dense.weight", "pooler.dense.bias", "o_proj.bias", "e_score_correction_bias")


def tensor(name: str, *shape: int) -> TensorInfo:
    return TensorInfo(name, shape, "F32", Path("model.safetensors"), 0, 0)


def mapped(config: dict[str, Any], tensors: dict[str, TensorInfo]) -> dict[str, TensorMap]:
    maps, _ = map_tensors(find_family(config), config, tensors)
    return {made.name: made for made in maps}


def refusal(config: dict[str, Any], tensors: dict[str, TensorInfo]) -> str:
    with pytest.raises(PlanError) as error:
        map_tensors(find_family(config), config, tensors)
    return error.value.message


@pytest.mark.parametrize("family", [*FAMILIES, *SMALL])
def test_every_source_row_is_used_exactly_once(family: str, listing: Make) -> None:
    config, tensors = listing(family)
    maps, left_out = map_tensors(find_family(config), config, tensors)
    used = {name: np.zeros(info.rows, int) for name, info in tensors.items()}
    for part in (part for made in maps for part in made.parts):
        used[part.source][part.start : part.stop] += 1
    for name, rows in used.items():
        if "act_fn" in name:  # numbers that become keys
            continue
        assert set(rows) == ({0} if name in left_out else {1}), name
    assert all("pooler" in name for name in left_out)


@pytest.mark.parametrize("family", [*FAMILIES, *SMALL, *LARGE])
def test_tensors_come_in_the_order_of_the_blocks(family: str, listing: Make) -> None:
    config, tensors = listing(family)
    names = list(mapped(config, tensors))
    blocks = [int(name.split(".")[1]) for name in names if name.startswith("blk.")]
    assert blocks == sorted(blocks)
    counted = ("num_hidden_layers", "n_layer", "n_layers")
    count = next((config[name] for name in counted if name in config), None)
    assert set(blocks) == set(range(count or len(config["layers_block_type"])))
    assert "token_embd.weight" in names[:2]
    if family not in ("bert", *ALWAYS_TIED):
        assert names[-1] == "output.weight"


@pytest.mark.parametrize("family", [*FAMILIES, *SMALL, *LARGE])
def test_any_missing_tensor_is_named(family: str, listing: Make) -> None:
    checkpoint = listing(family)
    with_experts = any(".experts." in name for name in checkpoint.tensors)
    for name in checkpoint.tensors:
        if name.endswith(OPTIONAL):
            continue
        message = refusal(checkpoint.config, checkpoint.without(name))
        if not with_experts or family == "gpt_oss":  # their stored names are others
            assert name in message


@pytest.mark.parametrize("family", [*FAMILIES, *SMALL, *LARGE])
def test_any_tensor_of_another_shape_is_named(family: str, listing: Make) -> None:
    checkpoint = listing(family)
    for name, info in checkpoint.tensors.items():
        if "pooler" not in name:
            *outer, columns = info.shape or (1,)
            wrong = tensor(name, *outer, columns + 2)
            assert name in refusal(checkpoint.config, checkpoint.adding(wrong))


def unknown(config: dict[str, Any], tensors: dict[str, Any]) -> tuple[str, ...]:
    family = find_family(config)
    return unknown_to(family, config, map_tensors(family, config, tensors)[1])


def test_a_tensor_that_the_family_does_not_know_is_named(listing: Make) -> None:
    checkpoint = listing("qwen3")
    more = tensor("model.layers.0.self_attn.sinks", 6), tensor("model.layers.1.extra", 6)
    names = unknown(checkpoint.config, checkpoint.adding(*more))
    assert names == ("model.layers.0.self_attn.sinks", "model.layers.1.extra")


def test_more_layers_than_the_configuration_says_are_named(listing: Make) -> None:
    config, tensors = listing("llama")
    assert all("model.layers.2." in n for n in unknown(config | {"num_hidden_layers": 2}, tensors))


def test_rotary_tables_are_left_out_and_reported(listing: Make) -> None:
    checkpoint = listing("llama")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    tensors = checkpoint.adding(tensor(name, 20))
    _, left_out = map_tensors(find_family(checkpoint.config), checkpoint.config, tensors)
    assert left_out == (name,)


def test_causal_masks_of_old_gpt2_checkpoints_are_left_out(listing: Make) -> None:
    checkpoint = listing("gpt2")
    bare = {name.removeprefix("transformer."): info for name, info in checkpoint.tensors.items()}
    bare = {name: tensor(name, *info.shape) for name, info in bare.items()}
    masks = {name: tensor(name, 1, 1, 96, 96) for name in ("h.0.attn.bias", "h.2.attn.bias")}
    _, left_out = map_tensors(find_family(checkpoint.config), checkpoint.config, bare | masks)
    assert set(left_out) == set(masks)


def test_norms_of_bert_may_have_the_names_of_tensorflow(listing: Make) -> None:
    config, tensors = listing("bert")
    renamed = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): info.shape
        for name, info in tensors.items()
    }
    old = {name: tensor(name, *shape) for name, shape in renamed.items()}
    assert mapped(config, old).keys() == mapped(config, tensors).keys()


def expert_tensors(config: dict[str, Any], tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The same checkpoint with a tensor for each expert, as it lies on disk."""
    plain = {name: info for name, info in tensors.items() if ".experts." not in name}
    width, size = config["hidden_size"], config["moe_intermediate_size"]
    for block in range(config["num_hidden_layers"]):
        for expert in range(5):
            prefix = f"model.layers.{block}.mlp.experts.{expert}."
            for part, shape in {
                "gate_proj": (size, width),
                "up_proj": (size, width),
                "down_proj": (width, size),
            }.items():
                name = f"{prefix}{part}.weight"
                plain[name] = tensor(name, *shape)
    return plain


def test_experts_are_stacked_in_their_order(listing: Make) -> None:
    config, tensors = listing("qwen3_moe")
    made = mapped(config, expert_tensors(config, tensors))["blk.1.ffn_down_exps.weight"]
    assert made.shape == (5, 192, 96)
    assert [part.source for part in made.parts] == [
        f"model.layers.1.mlp.experts.{expert}.down_proj.weight" for expert in range(5)
    ]


def test_a_missing_expert_is_named(listing: Make) -> None:
    config, tensors = listing("qwen3_moe")
    stored = expert_tensors(config, tensors)
    for missing in ("experts.0.up_proj", "experts.3.up_proj"):
        name = f"model.layers.1.mlp.{missing}.weight"
        rest = {key: info for key, info in stored.items() if key != name}
        assert name in refusal(config, rest)


def test_an_expert_too_many_is_named(listing: Make) -> None:
    config, tensors = listing("qwen3_moe")
    stored = expert_tensors(config, tensors)
    name = "model.layers.0.mlp.experts.5.up_proj.weight"
    assert unknown(config, stored | {name: tensor(name, 96, 192)}) == (name,)


def test_fused_experts_are_sliced_matrix_by_matrix(listing: Make) -> None:
    config, tensors = listing("qwen3_moe")
    made = mapped(config, tensors)["blk.0.ffn_up_exps.weight"]
    assert made.shape == (5, 96, 192)
    assert [(part.start, part.stop) for part in made.parts] == [
        (192 * expert + 96, 192 * expert + 192) for expert in range(5)
    ]


def test_one_tensor_under_two_names_is_refused(listing: Make) -> None:
    checkpoint = listing("llama")
    twice = tensor("norm.weight", 288)
    assert "two names" in refusal(checkpoint.config, checkpoint.adding(twice))


def test_an_output_that_is_promised_must_be_there(listing: Make) -> None:
    checkpoint = listing("llama")
    tensors = checkpoint.without("lm_head.weight")
    assert "lm_head.weight" in refusal(checkpoint.config, tensors)
    unsaid = {k: v for k, v in checkpoint.config.items() if k != "tie_word_embeddings"}
    assert "lm_head.weight" in refusal(unsaid, tensors)  # LlamaConfig's own default is no tie


def test_halves_of_heads_become_neighbours() -> None:
    assert order_of_pairs("q_proj.weight", 12, 2) == (0, 3, 1, 4, 2, 5)


@pytest.mark.parametrize("heads", [5, 4])
def test_heads_that_are_no_pairs_are_refused(heads: int) -> None:
    with pytest.raises(PlanError, match=r"q_proj\.weight"):
        order_of_pairs("q_proj.weight", 12, heads)


def test_the_table_of_classes_says_what_the_families_say() -> None:
    for name, architecture in BY_CLASS.items():
        assert name in architecture.classes
    for architecture in BY_CLASS.values():
        assert all(BY_CLASS[name] is architecture for name in architecture.classes)


def test_an_unknown_family_is_refused_with_a_list_of_the_known() -> None:
    with pytest.raises(UnsupportedError, match="UnheardOfForCausalLM") as error:
        find_family({"architectures": ["UnheardOfForCausalLM"]})
    assert "LlamaForCausalLM" in error.value.hint
    assert "BertModel" in error.value.hint


@pytest.mark.parametrize("classes", [None, [], "LlamaForCausalLM", [7], [["LlamaForCausalLM"]]])
def test_a_configuration_without_a_class_is_refused(classes: Any) -> None:
    with pytest.raises(CheckpointError, match="no architecture"):
        find_family({"architectures": classes})
