import gguf
import pytest
from gguf import MODEL_TENSOR

from qconvert.model.roles import (
    Role,
    block_number,
    can_be_quantized,
    is_always_f32,
    order_key,
    role_of,
)

# What convert_hf_to_gguf.py lists as always F32, by gguf's own names.
F32_TENSORS = (
    MODEL_TENSOR.FFN_GATE_INP,
    MODEL_TENSOR.FFN_GATE_INP_SHEXP,
    MODEL_TENSOR.POS_EMBD,
    MODEL_TENSOR.TOKEN_TYPES,
    MODEL_TENSOR.SSM_CONV1D,
    MODEL_TENSOR.SHORTCONV_CONV,
    MODEL_TENSOR.TIME_MIX_FIRST,
    MODEL_TENSOR.TIME_MIX_W1,
    MODEL_TENSOR.TIME_MIX_W2,
    MODEL_TENSOR.TIME_MIX_DECAY_W1,
    MODEL_TENSOR.TIME_MIX_DECAY_W2,
    MODEL_TENSOR.TIME_MIX_LERP_FUSED,
    MODEL_TENSOR.POSNET_NORM1,
    MODEL_TENSOR.POSNET_NORM2,
    MODEL_TENSOR.V_ENC_EMBD_POS,
    MODEL_TENSOR.A_ENC_EMBD_POS,
    MODEL_TENSOR.ALTUP_CORRECT_COEF,
    MODEL_TENSOR.ALTUP_PREDICT_COEF,
    MODEL_TENSOR.SSM_CONV1D_Q,
    MODEL_TENSOR.SSM_CONV1D_K,
    MODEL_TENSOR.SSM_CONV1D_V,
    MODEL_TENSOR.INDEXER_PROJ,
)


@pytest.mark.parametrize("tensor", MODEL_TENSOR, ids=lambda tensor: tensor.name)
def test_matrices_that_the_converter_keeps_in_f32_are_known_by_their_names(tensor):
    if tensor not in gguf.TENSOR_NAMES:
        pytest.skip("gguf has no name for it")
    name = gguf.TENSOR_NAMES[tensor].format(bid=17, xid=3) + ".weight"
    expected = tensor in F32_TENSORS or name.endswith("_norm.weight")
    assert is_always_f32(name, (8, 256)) == expected


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "rope_freqs.weight", "blk.3.attn_sinks"])
def test_vectors_and_what_is_no_weight_are_f32(name):
    assert is_always_f32(name, (256,))
    assert not can_be_quantized(name, (256,), "llama")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blk.0.attn_q.weight", (64, 256), True),
        ("blk.0.ffn_up_exps.weight", (4, 64, 256), True),
        ("blk.0.attn_q.weight", (1, 256), False),
        ("blk.0.attn_q.weight", (1, 1, 256), False),
        ("blk.0.attn_q.weight", (256, 1), True),
        ("blk.0.attn_q.bias", (64, 256), False),
        ("blk.0.attn_norm.weight", (64, 256), False),
        ("blk.0.ffn_gate_inp.weight", (64, 256), False),
        ("position_embd.weight", (64, 256), False),
        ("token_types.weight", (2, 256), False),
        ("output.weight", (64, 256), True),
        ("token_embd.weight", (64, 256), True),
    ],
)
def test_only_matrices_that_llama_quantize_touches_can_be_quantized(name, shape, expected):
    assert can_be_quantized(name, shape, "llama") is expected


def test_roles_are_told_from_names():
    assert role_of("blk.0.attn_qkv.weight") is Role.ATTENTION_V
    assert role_of("blk.0.ffn_down_exps.weight") is Role.FFN_DOWN
    assert role_of("output_norm.weight") is Role.OTHER
    assert role_of("blk.0.attn_q.weight") is Role.ATTENTION_Q


def test_tensors_are_counted_by_the_number_of_their_block():
    names = ["blk.10.attn_v.weight", "output.weight", "blk.9.ffn_up.weight", "blk.9.attn_v.weight"]
    assert sorted(names, key=order_key) == [names[1], names[3], names[2], names[0]]
    assert block_number("token_embd.weight") == -1
