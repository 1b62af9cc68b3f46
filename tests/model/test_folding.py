"""Which norm or projection takes up the division of which input."""

import pytest
from common import FAMILIES, save_model

from qconvert.checkpoint import open_checkpoint
from qconvert.model.families import find_family
from qconvert.model.families.mistral.mixtral import MIXTRAL
from qconvert.model.families.plain.phi3 import PHI3
from qconvert.model.folding import folds
from qconvert.model.mapping import map_tensors

ATTENTION = ("attn_norm", ("attn_q", "attn_k", "attn_v"))
FEED_FORWARD = ("ffn_norm", ("ffn_gate", "ffn_up"))
DOWN = ("ffn_up", ("ffn_down",))
EXPERTS = ("ffn_norm", ("ffn_gate_exps", "ffn_up_exps"))
DOWN_OF_EXPERTS = ("ffn_up_exps", ("ffn_down_exps",))

EXPECTED = {
    "llama": (ATTENTION, FEED_FORWARD, DOWN),
    "mistral": (ATTENTION, FEED_FORWARD, DOWN),
    "mixtral": (ATTENTION, EXPERTS, DOWN_OF_EXPERTS),
    "qwen2": (ATTENTION, FEED_FORWARD, DOWN),
    "qwen3": (ATTENTION, FEED_FORWARD, DOWN),
    "qwen3_moe": (ATTENTION, EXPERTS, DOWN_OF_EXPERTS),
    "gemma3": (ATTENTION, FEED_FORWARD, DOWN),
    "phi3": (("attn_norm", ("attn_qkv",)), ("ffn_norm", ("ffn_up",)), DOWN),
    "gpt2": (("attn_norm", ("attn_qkv",)), ("ffn_norm", ("ffn_up",))),
    "olmo2": (DOWN,),
    "granite": (ATTENTION, FEED_FORWARD, DOWN),
    "smollm3": (ATTENTION, FEED_FORWARD, DOWN),
    "bert": (),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_block_can_fold(family, tmp_path):
    save_model(family, tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    architecture = find_family(checkpoint.config)
    mapped, _ = map_tensors(architecture, checkpoint.config, checkpoint.tensors)
    found = folds(architecture.folds, 1, {tensor.name for tensor in mapped})
    expected = tuple(
        ("blk.1." + maker, tuple("blk.1." + name for name in weights))
        for maker, weights in EXPECTED[family]
    )
    assert tuple((fold.maker, fold.weights) for fold in found) == expected
    assert all(fold.is_norm == fold.maker.endswith("norm") for fold in found)


def test_routers_see_the_norm_too():
    names = {f"blk.0.{name}.weight" for name in ("ffn_norm", *EXPERTS[1], "ffn_gate_inp")}
    (fold,) = folds(MIXTRAL.folds, 0, names)
    assert fold.routers == ("blk.0.ffn_gate_inp",)


def test_phi3_has_up_behind_the_gate():
    names = {"blk.0.ffn_up.weight", "blk.0.ffn_down.weight"}
    (fold,) = folds(PHI3.folds, 0, names)
    assert fold.part == (0.5, 1.0)
