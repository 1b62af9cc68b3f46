"""Mistral 7B and its like: a Llama to llama.cpp, which has full attention where the first version
had a sliding window of 4096 tokens."""

from dataclasses import replace

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.llama import llama

DEFAULTS = {
    **llama.DEFAULTS,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}

DECODER = replace(
    llama.DECODER,
    model_type="mistral",
    classes=("MistralForCausalLM", "MistralModel"),
    defaults=DEFAULTS,
)

MISTRAL = replace(family_of(DECODER), config=None)
