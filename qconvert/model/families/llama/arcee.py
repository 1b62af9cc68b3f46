"""Arcee's AFM: a Llama whose feed-forward has no gate, and squares what is above zero."""

from dataclasses import replace

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import UNGATED, Attention, Only
from qconvert.model.families.llama import llama

DECODER = replace(
    llama.DECODER,
    name="arcee",
    model_type="arcee",
    classes=("ArceeForCausalLM",),
    defaults={
        **llama.DEFAULTS,
        "hidden_size": 2560,
        "intermediate_size": 18_432,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    },
    attention=Attention(regrouped=True, sized=True),
    feed_forward=UNGATED,
    only=(
        Only("hidden_act", ("relu2",)),
        Only("attention_bias", (False,)),
        Only("mlp_bias", (False,)),
    ),
)

ARCEE = family_of(DECODER)
