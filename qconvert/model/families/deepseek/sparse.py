"""DeepSeek V3.2 and GLM-5 (GlmMoeDsa): DeepSeek V3 whose layers attend to some of the tokens, which
an indexer beside each chooses; those of GLM may take over what a layer before has chosen.

    indexer    heads of queries, made of their latent vector, one of keys, a weight for each head

Files of these families go one way: they are not written back as directories.
Source: llama.cpp's src/models/deepseek32.cpp and glm-dsa.cpp, transformers' models/deepseek_v32.
"""

from dataclasses import replace

from qconvert.checkpoint.metadata import Metadata, flags, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.deepseek import deepseek
from qconvert.model.families.deepseek.deepseek import DEEPSEEK_V3
from qconvert.model.families.parts import latent
from qconvert.model.families.parts.common import block_count, prefixed, real, whole
from qconvert.model.families.parts.layers import blocks_with, kinds_of_layers
from qconvert.model.families.parts.lines import LAYER
from qconvert.model.families.parts.rope import PLAIN, check_rope, rope_parameters
from qconvert.model.types import Config, Rule

NAME, NAME_OF_GLM = "deepseek32", "glm-dsa"
OWN, SHARED = "full", "shared"
LETTERS = {"F": OWN, "S": SHARED}
"""Of `index_topk_pattern`."""

ROTATED = 64
"""Elements of an indexer's head that llama.cpp multiplies with one matrix of Hadamard."""

SHAPES = {
    **deepseek.SHAPES,
    "indexer.attn_q_b.weight": ("index_queries", "query_rank"),
    "indexer.attn_k.weight": ("index_head", "hidden"),
    "indexer.k_norm.weight": ("index_head",),
    "indexer.k_norm.bias": ("index_head",),
    "indexer.proj.weight": ("index_heads", "hidden"),
}

DEFAULTS = {
    **deepseek.V3_DEFAULTS,
    "max_position_embeddings": 163_840,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 64,
}

GLM_DEFAULTS = {
    **DEFAULTS,
    "vocab_size": 154_880,
    "hidden_size": 6144,
    "intermediate_size": 12_288,
    "num_hidden_layers": 78,
    "num_attention_heads": 64,
    "q_lora_rank": 2048,
    "v_head_dim": 256,
    "qk_nope_head_dim": 192,
    "n_group": 1,
    "topk_group": 1,
    "max_position_embeddings": 202_752,
    "rms_norm_eps": 1e-5,
    "index_n_heads": 32,
}

ALIASES = {
    **DEEPSEEK_V3.aliases,
    "num_experts": "n_routed_experts",
    "num_local_experts": "n_routed_experts",
}


def _metadata(config: Config, name: str) -> Metadata:
    keys = {
        "attention.indexer.head_count": u32(whole(config, "index_n_heads")),
        "attention.indexer.key_length": u32(whole(config, "index_head_dim")),
        "attention.indexer.top_k": u32(whole(config, "index_topk")),
    }
    return {**deepseek.metadata(config, name=name), **prefixed(name, keys)}


def metadata(config: Config) -> Metadata:
    return _metadata(config, NAME)


def metadata_of_glm(config: Config) -> Metadata:
    own = {"attention.indexer.types": flags([kind == OWN for kind in indexers(config)])}
    return {**_metadata(config, NAME_OF_GLM), **prefixed(NAME_OF_GLM, own)}


def indexers(config: Config) -> list[str]:
    """Whether each layer chooses for itself."""
    count = block_count(config)
    if config.get("indexer_types") is not None:
        return kinds_of_layers(config, "indexer_types", (OWN, SHARED), count)
    if isinstance(pattern := config.get("index_topk_pattern"), str | list):
        letters = {"index_topk_pattern": list(pattern)}
        return kinds_of_layers(letters, "index_topk_pattern", (OWN, SHARED), count, LETTERS)
    step, first = config.get("index_topk_freq", 1), config.get("index_skip_topk_offset", 2)
    if type(step) is not int or type(first) is not int:
        raise CheckpointError("config.json: index_topk_freq and index_skip_topk_offset are numbers")
    starts = (max(block - first + 1, 0) % max(step, 1) == 0 for block in range(count))
    return [OWN if start else SHARED for start in starts]


def limits(config: Config) -> None:
    """llama.cpp takes the magnitude of YaRN as DeepSeek has it."""
    rope = rope_parameters(config)
    if rope["rope_type"] == "yarn" and real(rope, "mscale_all_dim", default=1.0) != 1.0:
        raise UnsupportedError(
            "config.json: llama.cpp runs this family with mscale_all_dim = 1 only"
        )
    _limits(config)


def _limits(config: Config) -> None:
    deepseek.limits_of_v3(config)
    whole(config, "q_lora_rank")
    if whole(config, "index_head_dim") % ROTATED:
        raise UnsupportedError(
            f"config.json: llama.cpp turns index_head_dim in groups of {ROTATED}, of which "
            f"{config['index_head_dim']} is no multiple"
        )


def limits_of_glm(config: Config) -> None:
    check_rope(config, PLAIN)
    _limits(config)
    if indexers(config)[0] != OWN:
        raise CheckpointError("config.json: the first layer has nobody's choice of tokens to share")


def caveats(config: Config) -> tuple[str, ...]:
    return (
        *latent.caveats(config),
        f"which {whole(config, 'index_topk')} tokens a layer attends to can depend on rounding: in "
        "longer texts single logits of llama.cpp may differ from transformers'",
    )


def rules(config: Config) -> tuple[Rule, ...]:
    return _with_indexers(config, None)


def rules_of_glm(config: Config) -> tuple[Rule, ...]:
    return _with_indexers(config, blocks_with(indexers(config), OWN))


def _with_indexers(config: Config, blocks: tuple[int, ...] | None) -> tuple[Rule, ...]:
    *usual, norm, output = deepseek.rules(config)
    return (*usual, *(replace(rule, blocks=blocks) for rule in _INDEXER), norm, output)


_INDEXER = tuple(
    Rule(f"blk.{{i}}.indexer.{gguf}", f"{LAYER}self_attn.indexer.{hf}")
    for gguf, hf in (
        ("attn_q_b.weight", "wq_b.weight"),
        ("attn_k.weight", "wk.weight"),
        ("k_norm.weight", "k_norm.weight"),
        ("k_norm.bias", "k_norm.bias"),
        ("proj.weight", "weights_proj.weight"),
    )
)

DEEPSEEK_V32 = replace(
    DEEPSEEK_V3,
    name=NAME,
    classes=("DeepseekV32ForCausalLM",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases=ALIASES,
    limits=limits,
    caveats=caveats,
    shapes=SHAPES,
)

GLM_MOE_DSA = replace(
    DEEPSEEK_V32,
    name=NAME_OF_GLM,
    classes=("GlmMoeDsaForCausalLM",),
    metadata=metadata_of_glm,
    rules=rules_of_glm,
    defaults=GLM_DEFAULTS,
    limits=limits_of_glm,
)
