"""Model families: how their tensors and hyper-parameters are called on both sides."""

from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.bert import BERT
from qconvert.model.families.gemma3 import GEMMA3
from qconvert.model.families.gpt2 import GPT2
from qconvert.model.families.granite import GRANITE
from qconvert.model.families.llama import LLAMA
from qconvert.model.families.mistral import MISTRAL
from qconvert.model.families.mixtral import MIXTRAL
from qconvert.model.families.olmo2 import OLMO2
from qconvert.model.families.phi3 import PHI3
from qconvert.model.families.qwen2 import QWEN2
from qconvert.model.families.qwen3 import QWEN3
from qconvert.model.families.qwen3_moe import QWEN3_MOE
from qconvert.model.families.smollm3 import SMOLLM3
from qconvert.model.mapping import map_tensors
from qconvert.model.pooling import pooling_metadata
from qconvert.model.types import Architecture, Config

__all__ = [
    "ARCHITECTURES",
    "find_architecture",
    "map_tensors",
    "pooling_metadata",
]

ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": LLAMA,
    "LlamaModel": LLAMA,
    "MistralForCausalLM": MISTRAL,
    "MistralModel": MISTRAL,
    "MixtralForCausalLM": MIXTRAL,
    "MixtralModel": MIXTRAL,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen2Model": QWEN2,
    "Qwen3ForCausalLM": QWEN3,
    "Qwen3Model": QWEN3,
    "Qwen3MoeForCausalLM": QWEN3_MOE,
    "Qwen3MoeModel": QWEN3_MOE,
    "Gemma3ForCausalLM": GEMMA3,
    "Gemma3ForConditionalGeneration": GEMMA3,
    "Phi3ForCausalLM": PHI3,
    "Phi3Model": PHI3,
    "GPT2LMHeadModel": GPT2,
    "GPT2Model": GPT2,
    "Olmo2ForCausalLM": OLMO2,
    "GraniteForCausalLM": GRANITE,
    "SmolLM3ForCausalLM": SMOLLM3,
    "SmolLM3Model": SMOLLM3,
    "BertModel": BERT,
    "BertForMaskedLM": BERT,
    "BertForPreTraining": BERT,
}
"""The class in `config.json`'s `architectures` -> its family."""


def find_architecture(config: Config) -> Architecture:
    """The family of a checkpoint.

    Args:
        config: `config.json`.

    Raises:
        CheckpointError: it names no class.
        UnsupportedError: no such family here; the hint lists what is known.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise CheckpointError(
            "config.json names no architecture",
            hint='it needs a line such as "architectures": ["LlamaForCausalLM"]',
        )
    if names[0] not in ARCHITECTURES:
        raise UnsupportedError(
            f"the family {names[0]:.80} is not known", hint=f"known: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[names[0]]
