"""Apertus (arXiv 2509.14233): a Llama with norms over each head, and a feed-forward without a gate
whose activation, xIELU (arXiv 2411.13010), has numbers of its own in each block.

GGUF has those numbers among its keys. Files of this family go one way: they are not written back.
"""

from dataclasses import replace

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import UNGATED, Attention, Decoder, Norms, Only, Rope
from qconvert.model.families.llama import llama
from qconvert.model.families.parts.lines import LAYER
from qconvert.model.families.parts.rope import ROPE_TYPES

DECODER = Decoder(
    name="apertus",
    model_type="apertus",
    classes=("ApertusForCausalLM",),
    defaults={
        **llama.DEFAULTS,
        "vocab_size": 131_072,
        "intermediate_size": 14_336,
        "max_position_embeddings": 65_536,
        "rms_norm_eps": 1e-5,
        "rope_theta": 12_000_000.0,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 12_000_000.0,
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    },
    norms=Norms((("attn_norm", "attention_layernorm"), ("ffn_norm", "feedforward_layernorm"))),
    attention=Attention(qk_norms="heads"),
    rope=Rope((*ROPE_TYPES, "llama3")),
    feed_forward=UNGATED,
    only=(Only("hidden_act", ("xielu",)), Only("attention_bias", (False,))),
    tied_output=True,
)

NUMBERS = {
    f"xielu.{name}": f"{LAYER}mlp.act_fn.{name}" for name in ("alpha_n", "alpha_p", "beta", "eps")
}

APERTUS = replace(family_of(DECODER), numbers=NUMBERS, config=None)
