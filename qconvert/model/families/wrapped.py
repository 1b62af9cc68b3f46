"""Classes that see, around language models which have classes of their own: the language model is
taken, and the rest left out. Which family it is says the type of the inner settings."""

from dataclasses import replace

from qconvert.model.families.llama.llama import LLAMA
from qconvert.model.families.mistral.mistral import MISTRAL
from qconvert.model.families.qwen.qwen2 import QWEN2
from qconvert.model.families.qwen.qwen3 import QWEN3
from qconvert.model.families.qwen.qwen3_moe import QWEN3_MOE
from qconvert.model.types import Family

OUTER = (
    "SmolVLMForConditionalGeneration",
    "Idefics3ForConditionalGeneration",
    "InternVLForConditionalGeneration",
    "LlavaForConditionalGeneration",
)
INNER = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3_MOE,
}
"""By `model_type`."""

SEEING = r"(model\.)?(vision_(model|tower)|connector|multi_modal_projector|image_newline)(\..*)?"


def _inside(family: Family) -> Family:
    return replace(
        family, classes=OUTER, ignored=(*family.ignored, SEEING), config=None, pooled=False
    )


WRAPPED = {(outer, kind): _inside(family) for outer in OUTER for kind, family in INNER.items()}
"""By the outer class and the inner type."""
