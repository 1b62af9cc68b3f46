"""Mistral 7B and its like: a Llama to llama.cpp, which has full attention where the first version
had a sliding window of 4096 tokens."""

from qconvert.architectures import llama
from qconvert.architectures.parts import IGNORED
from qconvert.architectures.rope import llama3_factors
from qconvert.architectures.types import Architecture

MISTRAL = Architecture(
    name=llama.NAME,
    classes=("MistralForCausalLM", "MistralModel"),
    metadata=llama.metadata,
    rules=llama.rules,
    constants=llama3_factors,
    ignored=IGNORED,
)
