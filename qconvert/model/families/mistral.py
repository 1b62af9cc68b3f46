"""Mistral 7B and its like: a Llama to llama.cpp, which has full attention where the first version
had a sliding window of 4096 tokens."""

from qconvert.model.families import llama
from qconvert.model.families.parts import IGNORED
from qconvert.model.families.rope import llama3_factors
from qconvert.model.folding import DENSE
from qconvert.model.types import Family

DEFAULTS = {
    **llama.DEFAULTS,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}

MISTRAL = Family(
    name=llama.NAME,
    classes=("MistralForCausalLM", "MistralModel"),
    metadata=llama.metadata,
    rules=llama.rules,
    defaults=DEFAULTS,
    limits=llama.limits,
    constants=llama3_factors,
    ignored=IGNORED,
    folds=DENSE,
    pooled=True,
)
