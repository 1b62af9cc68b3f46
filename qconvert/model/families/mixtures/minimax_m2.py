"""MiniMax-M2: experts chosen by sigmoids, norms over all query and all key heads together, and
heads of which a part turns."""

from dataclasses import replace

from gguf import ExpertGatingFuncType

from qconvert.checkpoint.metadata import Metadata
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_keys
from qconvert.model.families.decoder.types import SILU_ONLY, Attention, Decoder, Experts, Only, Rope
from qconvert.model.families.parts.common import head_size, whole
from qconvert.model.types import Config

SOURCE = "block_sparse_moe."

DECODER = Decoder(
    name="minimax-m2",
    model_type="minimax_m2",
    classes=("MiniMaxM2ForCausalLM",),
    defaults={
        "vocab_size": 200_064,
        "hidden_size": 3072,
        "intermediate_size": 1536,
        "num_hidden_layers": 62,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 196_608,
        "rms_norm_eps": 1e-6,
        "rope_theta": 5_000_000.0,
        "num_local_experts": 256,
        "num_experts_per_tok": 8,
    },
    attention=Attention(bias=False, output_bias=False, qk_norms="all", sized=True),
    rope=Rope(theta=5_000_000.0, partly=True, counted=True),
    feed_forward=None,
    experts=Experts(
        count="num_local_experts",
        size="intermediate_size",
        single=tuple(f"{SOURCE}experts.{{e}}.w{part}.weight" for part in (1, 3, 2)),
        routers=(SOURCE + "gate.weight", "mlp.gate.weight"),
        correction=(SOURCE + "e_score_correction_bias", "mlp.e_score_correction_bias"),
        gating=ExpertGatingFuncType.SIGMOID,
    ),
    only=(SILU_ONLY, Only("scoring_func", ("sigmoid",))),
    aliases={"num_experts": "num_local_experts"},
    tied_output=True,
)


def metadata(config: Config) -> Metadata:
    """Published configurations say how many elements turn, and not which part."""
    if config.get("rotary_dim") is None:
        return decoder_keys(DECODER, config)
    part = whole(config, "rotary_dim") / head_size(config)
    return decoder_keys(DECODER, {"partial_rotary_factor": part, **config})


MINIMAX_M2 = replace(family_of(DECODER), metadata=metadata)
