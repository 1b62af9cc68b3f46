"""What a tensor is, told from its GGUF name: its role in the mixtures, and whether it can be
quantized at all.

Both follow llama.cpp: the quantizer's src/llama-quant.cpp for roles and for what is left alone,
the converter's conversion/base.py for what is written as F32.
"""

import re
from enum import Enum, auto
from functools import lru_cache


class Role(Enum):
    """The part that a tensor plays in a model."""

    OUTPUT = auto()
    EMBEDDING = auto()
    ATTENTION_V = auto()
    ATTENTION_K = auto()
    ATTENTION_Q = auto()
    ATTENTION_OUTPUT = auto()
    FFN_UP = auto()
    FFN_GATE = auto()
    FFN_DOWN = auto()
    ROUTER = auto()
    OTHER = auto()


_WHOLE_NAMES = {
    "output.weight": Role.OUTPUT,
    "token_embd.weight": Role.EMBEDDING,
    "per_layer_token_embd.weight": Role.EMBEDDING,
}

# Fused tensors that hold the values count as values. The first part found in the name counts.
_NAME_PARTS = (
    ("ffn_gate_inp.weight", Role.ROUTER),
    ("ffn_gate_inp_shexp.weight", Role.ROUTER),
    ("attn_qkv.weight", Role.ATTENTION_V),
    ("attn_kv_b.weight", Role.ATTENTION_V),
    ("attn_v.weight", Role.ATTENTION_V),
    ("attn_k.weight", Role.ATTENTION_K),
    ("attn_q.weight", Role.ATTENTION_Q),
    ("attn_output.weight", Role.ATTENTION_OUTPUT),
    ("ffn_up", Role.FFN_UP),
    ("ffn_gate", Role.FFN_GATE),
    ("ffn_down", Role.FFN_DOWN),
)

_LEFT_ALONE_WHOLE = frozenset(("position_embd.weight", "token_types.weight"))

_LEFT_ALONE_PARTS = (
    "_norm.weight",
    "ffn_gate_inp.weight",  # routers decide; an error there changes the expert
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    *(f"time_mix_{part}.weight" for part in ("first", "w0", "w1", "w2", "v0", "v1", "v2")),
    *(f"time_mix_{part}.weight" for part in ("a0", "a1", "a2", "g1", "g2", "decay_w1")),
    *(f"time_mix_{part}.weight" for part in ("decay_w2", "lerp_fused")),
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)

_LEFT_ALONE = re.compile("|".join(map(re.escape, _LEFT_ALONE_PARTS)))

_LEFT_ALONE_IN = {
    "glm5-next": (
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        *(f"ssm_{part}.weight" for part in ("f_a", "f_b", "g_a", "g_b", "beta")),
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    ),
}

# The converter's F32 tensors, beside norms and everything with one dimension.
_F32_NAMES = re.compile(
    r"""(position_embd|token_types|[va]\.position_embd|posnet\.\d+\.norm[12]
    |blk\.\d+\.(
        ffn_gate_inp|ffn_gate_inp_shexp|shortconv\.conv|indexer\.proj
        |ssm_conv1d(_[qkv])?|altup_(correct|predict)_coef
        |time_mix_(first|w1|w2|decay_w1|decay_w2|lerp_fused))
    )\.weight""",
    re.VERBOSE,
)

_BLOCK = re.compile(r"(?:enc\.)?blk\.(\d+)")


@lru_cache(maxsize=1 << 16)
def role_of(name: str) -> Role:
    """The role of the tensor of that GGUF name."""
    if name in _WHOLE_NAMES:
        return _WHOLE_NAMES[name]
    return next((role for part, role in _NAME_PARTS if part in name), Role.OTHER)


def block_number(name: str) -> int:
    """N of "blk.N.attn_q.weight" (of T5's "enc.blk.N..."); -1 for a tensor outside the blocks."""
    match = _BLOCK.match(name)
    return int(match[1]) if match else -1


def order_key(name: str) -> tuple[int, bytes]:
    """Sorts names as llama.cpp's loader does: by block, then by name. Mixtures count so. It does
    not take T5's for blocks."""
    return -1 if name.startswith("enc.") else block_number(name), name.encode()


@lru_cache(maxsize=1 << 16)
def can_be_quantized(name: str, shape: tuple[int, ...], architecture: str) -> bool:
    """Whether llama-quantize would touch the tensor. `shape` is row-major.

    Leading dimensions of 1 do not count: ggml does not see them.
    """
    return (
        any(size > 1 for size in shape[:-1])
        and name.endswith("weight")
        and name not in _LEFT_ALONE_WHOLE
        and _LEFT_ALONE.search(name) is None
        and not any(part in name for part in _LEFT_ALONE_IN.get(architecture, ()))
    )


def is_always_f32(name: str, shape: tuple[int, ...]) -> bool:
    """Whether the converter writes the tensor as F32, whatever the file type."""
    return (
        len(shape) <= 1
        or name.endswith("_norm.weight")
        or not name.endswith((".weight", ".lora_a", ".lora_b"))
        or _F32_NAMES.fullmatch(name) is not None
    )
