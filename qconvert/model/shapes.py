"""What shape a GGUF tensor must have, from the metadata that goes with it.

These are the shapes that llama.cpp asks for when it loads a file (`llama-model.cpp` and
`models/*.cpp`), so a checkpoint that does not agree with its configuration is refused before
anything is read.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache, partial

from qconvert.checkpoint.foreign import UNGATHERED
from qconvert.checkpoint.metadata import Field
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import PlanError
from qconvert.model.roles import block_number
from qconvert.model.types import Family

SHAPES: dict[str, tuple[str, ...]] = {
    "token_embd.weight": ("vocabulary", "hidden"),
    "token_embd_norm.weight": ("hidden",),
    "token_embd_norm.bias": ("hidden",),
    "token_types.weight": ("types", "hidden"),
    "position_embd.weight": ("context", "hidden"),
    "output.weight": ("vocabulary", "hidden"),
    "output_norm.weight": ("hidden",),
    "output_norm.bias": ("hidden",),
    "attn_norm.weight": ("hidden",),
    "attn_norm.bias": ("hidden",),
    "attn_q.weight": ("query", "hidden"),
    "attn_q.bias": ("query",),
    "attn_k.weight": ("key", "hidden"),
    "attn_k.bias": ("key",),
    "attn_v.weight": ("key", "hidden"),
    "attn_v.bias": ("key",),
    "attn_qkv.weight": ("query_key_value", "hidden"),
    "attn_qkv.bias": ("query_key_value",),
    "attn_output.weight": ("hidden", "query"),
    "attn_output.bias": ("hidden",),
    "attn_q_norm.weight": ("head",),
    "attn_k_norm.weight": ("head",),
    "attn_output_norm.weight": ("hidden",),
    "attn_output_norm.bias": ("hidden",),
    "post_attention_norm.weight": ("hidden",),
    "post_ffw_norm.weight": ("hidden",),
    "layer_output_norm.weight": ("hidden",),
    "layer_output_norm.bias": ("hidden",),
    "ffn_norm.weight": ("hidden",),
    "ffn_norm.bias": ("hidden",),
    "ffn_gate.weight": ("ffn", "hidden"),
    "ffn_gate.bias": ("ffn",),
    "ffn_up.weight": ("ffn", "hidden"),
    "ffn_up.bias": ("ffn",),
    "ffn_down.weight": ("hidden", "ffn"),
    "ffn_down.bias": ("hidden",),
    "ffn_gate_inp.weight": ("experts", "hidden"),
    "ffn_gate_exps.weight": ("experts", "expert_ffn", "hidden"),
    "ffn_up_exps.weight": ("experts", "expert_ffn", "hidden"),
    "ffn_down_exps.weight": ("experts", "hidden", "expert_ffn"),
    "ffn_gate_inp.bias": ("experts",),
    "ffn_gate_exps.bias": ("experts", "expert_ffn"),
    "ffn_up_exps.bias": ("experts", "expert_ffn"),
    "ffn_down_exps.bias": ("experts", "hidden"),
    "exp_probs_b.bias": ("experts",),
    "ffn_gate_inp_shexp.weight": ("hidden",),
    "ffn_gate_shexp.weight": ("shared_ffn", "hidden"),
    "ffn_up_shexp.weight": ("shared_ffn", "hidden"),
    "ffn_down_shexp.weight": ("hidden", "shared_ffn"),
    "cls.weight": ("hidden", "hidden"),
    "cls.bias": ("hidden",),
    "cls.output.weight": ("labels", "hidden"),
    "cls.output.bias": ("labels",),
    "attn_sinks.weight": ("heads",),
}
"""By the name without its block, of all families that do not say otherwise."""

_BLOCK = re.compile(r"(enc\.)?blk\.(\d+|\{i\})\.")

Sizes = Callable[[int], Mapping[str, int]]
"""By the number of a block, the sizes that its shapes are made of."""


def expected_shape(family: Family, name: str, sizes: Sizes) -> tuple[int, ...]:
    """Row-major.

    Args:
        name: GGUF's.
        sizes: of `sizes_by_block`.
    """
    bare = _BLOCK.sub("", name)
    dimensions = family.shapes.get(bare) or SHAPES[bare]
    own = sizes(max(block_number(name), 0))
    return tuple(own[dimension] for dimension in dimensions)


def sizes_by_block(architecture: str, metadata: Mapping[str, Field]) -> Sizes:
    """The sizes of each block; what stands outside the blocks has those of block 0."""
    return cache(partial(read_sizes, architecture, metadata))


CACHED_BYTES = 2
"""Of a number in the cache of keys and values: F16."""


def cache_bytes(architecture: str, metadata: Mapping[str, Field], tokens: int) -> int:
    """What the keys and values of so many tokens take, or of as many as the model knows.

    Args:
        architecture, metadata: GGUF's.
    """
    sizes = read_sizes(architecture, metadata)
    tokens = min(tokens, sizes["context"] or tokens)
    return 2 * CACHED_BYTES * sizes["blocks"] * sizes["key"] * tokens


def read_sizes(architecture: str, metadata: Mapping[str, Field], block: int = 0) -> dict[str, int]:
    """The sizes that a block's shapes are made of, from `{architecture}.*` keys, some of which
    may have a value for each block."""

    def value(key: str, default: int) -> int:
        field = metadata.get(f"{architecture}.{key}")
        if field is None:
            return default
        return int(field.value[block] if isinstance(field.value, list) else field.value)

    hidden, heads = value("embedding_length", 0), value("attention.head_count", 1)
    windowed = bool(value("attention.sliding_window_pattern", 0))
    head = value("attention.key_length", hidden // max(heads, 1))
    head = value("attention.key_length_swa", head) if windowed else head
    query = heads * head
    key = value("attention.head_count_kv", heads) * head
    ffn = value("feed_forward_length", 0)
    labels = metadata.get(f"{architecture}.classifier.output_labels")
    types = metadata.get("tokenizer.ggml.token_type_count")
    return {
        "blocks": value("block_count", 0),
        "vocabulary": value("vocab_size", 0),
        "context": value("context_length", 0),
        "labels": 1 if labels is None else len(labels.value),
        "types": 0 if types is None else int(types.value),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": value("attention.head_count_kv", heads),
        "head": head,
        "query": query,
        "key": key,
        "query_key_value": query + 2 * key,
        "values": value("attention.head_count_kv", heads) * value("attention.value_length", head),
        "mixed": heads * value("attention.value_length", head),
        "ffn": ffn,
        "gate_up": 2 * ffn,
        "experts": value("expert_count", 0),
        "expert_ffn": value("expert_feed_forward_length", ffn),
        "shared_ffn": value("expert_shared_feed_forward_length", ffn),
        "always_ffn": value("expert_feed_forward_length", ffn) * value("expert_shared_count", 0),
        "expert_io": value("moe_latent_size", hidden),
        "one": 1,
        "buckets": value("attention.relative_buckets_count", 0),
        "expert_gate_up": 2 * value("expert_feed_forward_length", ffn),
        "layer_input": value("embedding_length_per_layer_input", 0),
        "all_inputs": value("embedding_length_per_layer_input", 0) * value("block_count", 0),
        "taps": value("shortconv.l_cache", 0),
        "convolved": 3 * hidden,
        **_linear_sizes(value, query),
        **_mamba_sizes(value),
        **_latent_sizes(value, heads),
        **_copy_sizes(value),
    }


def _copy_sizes(value: Callable[[str, int], int]) -> dict[str, int]:
    """Of several copies of the hidden states (Gemma 3n), whose rank no key tells."""
    copies = value("altup.num_inputs", 0)
    return {
        "copies": copies,
        "other_copies": copies - 1,
        "copies_squared": copies * copies,
        "laurel_rank": 64,
    }


def _latent_sizes(value: Callable[[str, int], int], heads: int) -> dict[str, int]:
    """Of latent attention: `key_mla` are the elements of a head that do not turn."""
    head, inner = value("attention.key_length_mla", 0), value("attention.value_length_mla", 0)
    return {
        "rank": value("attention.kv_lora_rank", 0),
        "query_rank": value("attention.q_lora_rank", 0),
        "query_mla": heads * head,
        "key_mla": head - value("rope.dimension_count", 0),
        "value_mla": inner,
        "values_mla": heads * inner,
        "index_heads": value("attention.indexer.head_count", 0),
        "index_head": value("attention.indexer.key_length", 0),
        "index_queries": value("attention.indexer.head_count", 0)
        * value("attention.indexer.key_length", 0),
    }


def _mamba_sizes(value: Callable[[str, int], int]) -> dict[str, int]:
    """Of state-space layers, beside those of linear attention, whose keys they share."""
    inner, groups = value("ssm.inner_size", 0), max(value("ssm.group_count", 1), 1)
    mixed = inner + 2 * value("ssm.state_size", 0) * groups
    return {
        "mamba_in": inner + mixed + value("ssm.time_step_rank", 0),
        "state_in": 2 * inner,
        "state_steps": value("ssm.time_step_rank", 0) + 2 * value("ssm.state_size", 0),
        "mamba_groups": groups,
        "mamba_group": inner // groups,
    }


def _linear_sizes(value: Callable[[str, int], int], query: int) -> dict[str, int]:
    """Of linear attention, and of queries with a gate beside it."""
    head, inner = value("ssm.state_size", 0), value("ssm.inner_size", 0)
    return {
        "query_gate": 2 * query,
        "linear_head": head,
        "linear_heads": value("ssm.time_step_rank", 0),
        "linear_gates": 2 * value("ssm.time_step_rank", 0),
        "linear_value": inner,
        "linear_channels": 2 * head * value("ssm.group_count", 0) + inner,
        "kernel": value("ssm.conv_kernel", 0),
    }


def empty_tensor(info: TensorInfo) -> PlanError:
    """That a tensor that is needed holds nothing."""
    return PlanError(f"{info.name} is empty (shape {list(info.shape)})", UNGATHERED)
