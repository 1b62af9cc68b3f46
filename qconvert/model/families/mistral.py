"""Mistral 7B and its like: a Llama to llama.cpp, which has full attention where the first version
had a sliding window of 4096 tokens."""

from qconvert.model.families import llama
from qconvert.model.families.parts import IGNORED
from qconvert.model.families.rope import llama3_factors
from qconvert.model.folding import DENSE
from qconvert.model.types import Family

MISTRAL = Family(
    name=llama.NAME,
    classes=("MistralForCausalLM", "MistralModel"),
    metadata=llama.metadata,
    rules=llama.rules,
    constants=llama3_factors,
    ignored=IGNORED,
    folds=DENSE,
    pooled=True,
)
