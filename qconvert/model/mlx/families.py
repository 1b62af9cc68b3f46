"""Families as mlx-lm runs them, by the class in `config.json`'s `architectures`.

mlx-lm reads the keys of transformers 4: `rope_theta` and `rope_scaling` beside the others and not
in `rope_parameters`, and it has defaults of its own. So all that it reads is stated. What it would
run in another way than transformers is refused.
Source: mlx-lm, mlx_lm/models.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from qconvert.errors import UnsupportedError
from qconvert.model.families.gemma.gemma3 import ACTIVATIONS, heeded_rope, sliding_layers
from qconvert.model.families.parts.common import (
    SILU,
    block_count,
    head_count,
    head_size,
    kv_head_count,
    real,
    whole,
)
from qconvert.model.families.parts.rope import rope_parameters, sliding_rope
from qconvert.model.mlx.rope import LONG, rope_settings
from qconvert.model.types import Config


@dataclass(frozen=True)
class MlxFamily:
    """A family in mlx-lm.

    Attributes:
        model_type: that of `config.json`, by which mlx-lm finds its code.
        settings: transformers' settings -> what mlx-lm reads; raises UnsupportedError where it
            would compute something else.
        wrapper: what stands before the names of the language model's weights.
        experts: what a single expert's name ends with, from its number on, and what the stack of
            all is called in its place.
        coarse: ends of names of layers that its converter gives 8 bits, whatever is asked for.
        windows: whether layers may see a window only: "all" of a pattern, "some" beside others with
            full attention, or "none".
    """

    model_type: str
    settings: Callable[[Config], dict[str, Any]]
    wrapper: str = ""
    experts: Mapping[str, str] = field(default_factory=dict)
    coarse: tuple[str, ...] = ()
    windows: Literal["all", "some", "none"] = "none"

    def heeds_window(self, config: Config) -> bool:
        """Whether layers with a window see no more in mlx-lm either.

        Args:
            config: transformers' settings.
        """
        kinds = {"full_attention", "sliding_attention"}
        mixed = self.windows == "some" and kinds <= set(config.get("layer_types") or ())
        return mixed or self.windows == "all"


def mlx_family(config: Config) -> MlxFamily:
    """The family of a model.

    Args:
        config: `config.json`.

    Raises:
        UnsupportedError: mlx-lm has no such model, or it predicts no tokens.
    """
    names = config.get("architectures") or [""]
    if names[0] not in FAMILIES:
        raise UnsupportedError(
            f"{names[0]:.80} cannot be written for mlx-lm", f"known: {', '.join(FAMILIES)}"
        )
    return FAMILIES[names[0]]


def _decoder(config: Config) -> dict[str, Any]:
    """What all decoders with RMS norms have."""
    _only(config, "hidden_act", SILU)
    return {
        "hidden_size": whole(config, "hidden_size"),
        "num_hidden_layers": block_count(config),
        "intermediate_size": whole(config, "intermediate_size"),
        "num_attention_heads": head_count(config),
        "num_key_value_heads": kv_head_count(config),
        "rms_norm_eps": real(config, "rms_norm_eps"),
        "vocab_size": whole(config, "vocab_size"),
        "max_position_embeddings": whole(config, "max_position_embeddings"),
    }


def _llama(config: Config) -> dict[str, Any]:
    biases = {key: bool(config.get(key)) for key in ("attention_bias", "mlp_bias")}
    # Of windows mlx-lm's Llama knows more than transformers', whose layers are all alike.
    more = {"head_dim": head_size(config), "layer_types": None}
    return {**_decoder(config), **more, **biases, **rope_settings(config, "llama3")}


def _smollm3(config: Config) -> dict[str, Any]:
    stated = ("no_rope_layers", "no_rope_layer_interval")
    given = {key: config[key] for key in stated if config.get(key) is not None}
    if SMOLLM3.heeds_window(config):
        given["layer_types"] = config["layer_types"]
    return {**_llama(config), **given}


def _granite(config: Config) -> dict[str, Any]:
    _fills_width(config, "Granite")
    names = ("attention_multiplier", "embedding_multiplier", "residual_multiplier")
    scales = {key: real(config, key, default=1.0) for key in (*names, "logits_scaling")}
    return {**_llama(config), **scales}


def _olmo2(config: Config) -> dict[str, Any]:
    return {**_llama(config), "mlp_bias": False}


def _qwen2(config: Config) -> dict[str, Any]:
    _fills_width(config, "Qwen2")
    return {**_decoder(config), **rope_settings(config)}


def _qwen3(config: Config) -> dict[str, Any]:
    _only(config, "attention_bias", (False,))
    return {**_decoder(config), "head_dim": head_size(config), **rope_settings(config)}


def _qwen3_moe(config: Config) -> dict[str, Any]:
    return {
        **_qwen3(config),
        "num_experts": whole(config, "num_experts"),
        "num_experts_per_tok": whole(config, "num_experts_per_tok"),
        "moe_intermediate_size": whole(config, "moe_intermediate_size"),
        "decoder_sparse_step": whole(config, "decoder_sparse_step", default=1),
        "mlp_only_layers": config.get("mlp_only_layers") or [],
        "norm_topk_prob": config.get("norm_topk_prob") is True,
    }


def _mixtral(config: Config) -> dict[str, Any]:
    _fills_width(config, "Mixtral")
    _only(config, "attention_bias", (False,))
    experts = ("num_local_experts", "num_experts_per_tok")
    return {
        **_decoder(config),
        **{key: whole(config, key) for key in experts},
        **rope_settings(config, stretched=False),
    }


def _phi3(config: Config) -> dict[str, Any]:
    rope = rope_parameters(config)
    longest = whole(config, "max_position_embeddings")
    return {
        **_decoder(config),
        **rope_settings(config, *LONG, stretched=False, partly=True),
        "partial_rotary_factor": real(rope, "partial_rotary_factor"),
        "original_max_position_embeddings": whole(
            rope, "original_max_position_embeddings", default=longest
        ),
    }


def _gpt2(config: Config) -> dict[str, Any]:
    width = whole(config, "n_embd")
    if whole(config, "n_inner", default=4 * width) != 4 * width:
        raise _unsupported("n_inner other than 4 n_embd")
    return {
        **{key: whole(config, key) for key in ("n_head", "n_layer", "n_positions", "vocab_size")},
        "n_embd": width,
        "n_ctx": whole(config, "n_positions"),
        "layer_norm_epsilon": real(config, "layer_norm_epsilon"),
    }


def _gemma3(config: Config) -> dict[str, Any]:
    config = {**config, **heeded_rope(config)}
    _only(config, "hidden_activation", ACTIVATIONS)
    _only(config, "attention_bias", (False,))
    for key in ("final_logit_softcapping", "attn_logit_softcapping"):
        _only(config, key, ())
    sliding = sliding_layers(config)
    # The number of the first layer with full attention, in each round of so many.
    pattern = sliding.index(False) + 1 if False in sliding else 0
    if not pattern or sliding != [(i + 1) % pattern != 0 for i in range(len(sliding))]:
        raise _unsupported("layer_types that are not full attention in every n-th layer")
    plain = {key: value for key, value in config.items() if key != "hidden_act"}
    return {
        **_decoder(plain),
        "head_dim": head_size(config),
        "query_pre_attn_scalar": real(config, "query_pre_attn_scalar"),
        "sliding_window": whole(config, "sliding_window"),
        "sliding_window_pattern": pattern,
        "rope_local_base_freq": real(sliding_rope(config), "rope_theta"),
        **rope_settings(config),
    }


def _fills_width(config: Config, name: str) -> None:
    if head_count(config) * head_size(config) != whole(config, "hidden_size"):
        raise _unsupported(f"num_attention_heads * head_dim other than hidden_size in {name}")


def _only(config: Config, key: str, allowed: tuple[Any, ...]) -> None:
    """Refuse other values than these; an absent one is taken for allowed."""
    value = config.get(key)
    if value is not None and value not in allowed:
        raise _unsupported(f"{key} = {value!r:.60}")


def _unsupported(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"config.json: mlx-lm does not run this family with {what}",
        "write a GGUF file or another directory of it",
    )


_OF_QWEN = {f"{part}.weight": f"switch_mlp.{part}.weight" for part in ("gate_proj", "up_proj")}
_OF_QWEN["down_proj.weight"] = "switch_mlp.down_proj.weight"
_OF_MIXTRAL = {
    "w1.weight": "switch_mlp.gate_proj.weight",
    "w2.weight": "switch_mlp.down_proj.weight",
    "w3.weight": "switch_mlp.up_proj.weight",
}

SMOLLM3 = MlxFamily("smollm3", _smollm3, windows="some")

FAMILIES = {
    "LlamaForCausalLM": MlxFamily("llama", _llama),
    "MistralForCausalLM": MlxFamily("mistral", _llama),
    "MixtralForCausalLM": MlxFamily("mixtral", _mixtral, experts=_OF_MIXTRAL),
    "Qwen2ForCausalLM": MlxFamily("qwen2", _qwen2),
    "Qwen3ForCausalLM": MlxFamily("qwen3", _qwen3),
    "Qwen3MoeForCausalLM": MlxFamily(
        "qwen3_moe", _qwen3_moe, experts=_OF_QWEN, coarse=("mlp.gate.weight",)
    ),
    "Gemma3ForCausalLM": MlxFamily("gemma3_text", _gemma3, windows="all"),
    "Gemma3ForConditionalGeneration": MlxFamily(
        "gemma3", _gemma3, wrapper="language_model.", windows="all"
    ),
    "Phi3ForCausalLM": MlxFamily("phi3", _phi3),
    "GPT2LMHeadModel": MlxFamily("gpt2", _gpt2),
    "Olmo2ForCausalLM": MlxFamily("olmo2", _olmo2),
    "GraniteForCausalLM": MlxFamily(
        "granite",
        _granite,
        coarse=("self_attn.o_proj.weight", "mlp.down_proj.weight", "lm_head.weight"),
    ),
    "SmolLM3ForCausalLM": SMOLLM3,
}
