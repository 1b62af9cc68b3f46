"""Model families, one file each: names, shapes, metadata, folds and `config.json`.

A new family is a file here and a line in `FAMILIES`.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError, UnsupportedError, shorten
from qconvert.model.families.deepseek.deepseek import DEEPSEEK_V2, DEEPSEEK_V3, GLM4_MOE_LITE
from qconvert.model.families.deepseek.sparse import DEEPSEEK_V32, GLM_MOE_DSA
from qconvert.model.families.early.bloom import BLOOM
from qconvert.model.families.early.falcon import FALCON
from qconvert.model.families.early.gpt2 import GPT2
from qconvert.model.families.early.gpt_neox import GPT_NEOX
from qconvert.model.families.early.mpt import MPT
from qconvert.model.families.early.stablelm import STABLELM, stablelm_of
from qconvert.model.families.encoders.bert import BERT
from qconvert.model.families.encoders.distilbert import DISTILBERT
from qconvert.model.families.encoders.jina_v3 import JINA_V3
from qconvert.model.families.encoders.modern_bert import MODERN_BERT, MODERN_BERT_RANK
from qconvert.model.families.encoders.nomic_bert import NOMIC_BERT
from qconvert.model.families.encoders.roberta import (
    BERT_RANK,
    ROBERTA,
    ROBERTA_RANK,
    XLM_ROBERTA,
    XLM_ROBERTA_RANK,
)
from qconvert.model.families.encoders.t5 import T5_ENCODER, UMT5_ENCODER
from qconvert.model.families.ernie.dense import ERNIE4_5
from qconvert.model.families.ernie.moe import ERNIE4_5_MOE
from qconvert.model.families.gemma.embedding import EMBEDDING_GEMMA
from qconvert.model.families.gemma.gemma import GEMMA
from qconvert.model.families.gemma.gemma2 import GEMMA2
from qconvert.model.families.gemma.gemma3 import GEMMA3
from qconvert.model.families.gemma.gemma3n import GEMMA3N
from qconvert.model.families.gemma.gemma4 import GEMMA4, GEMMA4_UNIFIED
from qconvert.model.families.glm.glm4 import GLM4
from qconvert.model.families.glm.glm4_moe import GLM4_MOE
from qconvert.model.families.granite.granite import GRANITE
from qconvert.model.families.granite.granite_hybrid import (
    GRANITE_ATTENDING,
    GRANITE_ATTENDING_MOE,
    GRANITE_HYBRID,
    granite_of,
)
from qconvert.model.families.granite.granite_moe import GRANITE_MOE, GRANITE_MOE_SHARED
from qconvert.model.families.hunyuan.dense import HUNYUAN_DENSE
from qconvert.model.families.hunyuan.moe import HUNYUAN_MOE
from qconvert.model.families.hunyuan.v3 import HY_V3
from qconvert.model.families.llama.arcee import ARCEE
from qconvert.model.families.llama.llama import LLAMA
from qconvert.model.families.llama.llama4 import LLAMA4
from qconvert.model.families.llama.smollm3 import SMOLLM3
from qconvert.model.families.mistral.ministral3 import MINISTRAL3, MISTRAL3
from qconvert.model.families.mistral.mistral import MISTRAL
from qconvert.model.families.mistral.mixtral import MIXTRAL
from qconvert.model.families.mixtures.gpt_oss import GPT_OSS
from qconvert.model.families.mixtures.laguna import LAGUNA, laguna_of
from qconvert.model.families.mixtures.mimo_v2 import MIMO_V2
from qconvert.model.families.mixtures.minimax_m2 import MINIMAX_M2
from qconvert.model.families.nemotron.nemotron import NEMOTRON
from qconvert.model.families.nemotron.nemotron_h import NEMOTRON_H, NEMOTRON_H_MOE, nemotron_of
from qconvert.model.families.olmo.olmo import OLMO
from qconvert.model.families.olmo.olmo2 import OLMO2
from qconvert.model.families.olmo.olmo3 import OLMO3
from qconvert.model.families.olmo.olmoe import OLMOE
from qconvert.model.families.parts.common import named_class
from qconvert.model.families.plain.apertus import APERTUS
from qconvert.model.families.plain.cohere import COHERE, COHERE2
from qconvert.model.families.plain.exaone4 import EXAONE4
from qconvert.model.families.plain.phi3 import PHI3
from qconvert.model.families.plain.seed_oss import SEED_OSS
from qconvert.model.families.plain.starcoder2 import STARCODER2
from qconvert.model.families.qwen.qwen2 import QWEN2
from qconvert.model.families.qwen.qwen2_moe import QWEN2_MOE
from qconvert.model.families.qwen.qwen3 import QWEN3
from qconvert.model.families.qwen.qwen3_5 import QWEN3_5, QWEN3_5_MOE
from qconvert.model.families.qwen.qwen3_moe import QWEN3_MOE
from qconvert.model.families.qwen.qwen3_next import QWEN3_NEXT
from qconvert.model.families.qwen.reranker import QWEN3_RANK
from qconvert.model.families.qwen.vision import QWEN2_VL, QWEN3_VL, QWEN3_VL_MOE
from qconvert.model.families.refused import why_refused
from qconvert.model.families.states.falcon_h1 import FALCON_H1
from qconvert.model.families.states.jamba import JAMBA
from qconvert.model.families.states.lfm2 import LFM2, LFM2_MOE
from qconvert.model.families.states.mamba import MAMBA, MAMBA2
from qconvert.model.families.wrapped import INNER, OUTER, WRAPPED
from qconvert.model.types import Config, Family

FAMILIES = (
    LLAMA,
    MISTRAL,
    MIXTRAL,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
    GEMMA3,
    PHI3,
    GPT2,
    OLMO2,
    GRANITE,
    SMOLLM3,
    BERT,
    XLM_ROBERTA,
    ROBERTA,
    XLM_ROBERTA_RANK,
    ROBERTA_RANK,
    BERT_RANK,
    DISTILBERT,
    MODERN_BERT,
    MODERN_BERT_RANK,
    NOMIC_BERT,
    EMBEDDING_GEMMA,
    QWEN3_RANK,
    T5_ENCODER,
    UMT5_ENCODER,
    GPT_OSS,
    GEMMA,
    GEMMA2,
    QWEN2_VL,
    QWEN3_VL,
    MISTRAL3,
    MINISTRAL3,
    QWEN2_MOE,
    OLMO3,
    SEED_OSS,
    GLM4,
    GLM4_MOE,
    EXAONE4,
    COHERE,
    COHERE2,
    STARCODER2,
    STABLELM,
    OLMOE,
    ERNIE4_5,
    GRANITE_MOE,
    GRANITE_MOE_SHARED,
    MINIMAX_M2,
    QWEN3_5,
    QWEN3_5_MOE,
    QWEN3_NEXT,
    DEEPSEEK_V3,
    DEEPSEEK_V2,
    GLM4_MOE_LITE,
    LFM2,
    LFM2_MOE,
    GEMMA4,
    GEMMA4_UNIFIED,
    GEMMA3N,
    ARCEE,
    NEMOTRON,
    OLMO,
    APERTUS,
    HUNYUAN_DENSE,
    HUNYUAN_MOE,
    GPT_NEOX,
    NEMOTRON_H,
    NEMOTRON_H_MOE,
    GRANITE_ATTENDING,
    GRANITE_ATTENDING_MOE,
    GRANITE_HYBRID,
    LLAMA4,
    ERNIE4_5_MOE,
    MAMBA,
    MAMBA2,
    QWEN3_VL_MOE,
    JAMBA,
    DEEPSEEK_V32,
    GLM_MOE_DSA,
    HY_V3,
    LAGUNA,
    FALCON_H1,
    MIMO_V2,
    FALCON,
    MPT,
    BLOOM,
    JINA_V3,
)
"""Every family; of those that are one architecture to llama.cpp, the one that a file is taken for
first."""

NAMED = 16
"""Families that a hint names; README lists all."""

BY_CLASS = {name: family for family in FAMILIES for name in family.classes}
"""By the class in `config.json`'s `architectures`."""

BY_TEXT: dict[tuple[str, str], Family] = {
    ("Mistral3ForConditionalGeneration", "ministral3"): MINISTRAL3
}
"""Of classes around different text models, by the class and the text model's type."""

BY_LAYERS: dict[str, Callable[[Config], Family]] = {
    "NemotronHForCausalLM": nemotron_of,
    "GraniteMoeHybridForCausalLM": granite_of,
    "LagunaForCausalLM": laguna_of,
    "StableLmForCausalLM": stablelm_of,
}
"""Of classes that are several architectures to llama.cpp, what tells which from `config.json`."""


def find_family(config: Config) -> Family:
    """The family of a checkpoint.

    Args:
        config: `config.json`.

    Raises:
        CheckpointError: it names no class.
        UnsupportedError: no such family here; the hint names the nearest.
    """
    name = named_class(config)
    if name is None:
        raise CheckpointError(
            "config.json names no architecture",
            hint='it needs a line such as "architectures": ["LlamaForCausalLM"]',
        )
    if refusal := why_refused(name):
        raise UnsupportedError(*refusal)
    if name in BY_LAYERS:
        return BY_LAYERS[name](config)
    inner = config.get("text_config")
    kind = inner.get("model_type") if isinstance(inner, Mapping) else None
    if name in OUTER:
        if kind not in INNER:
            raise UnsupportedError(
                f"{name} has a language model of the type {kind!r:.40}, which is not known",
                f"known: {', '.join(INNER)}",
            )
        return WRAPPED[name, kind]
    if name not in BY_CLASS:
        raise UnsupportedError(f"the family {name:.80} is not known", nearest(name))
    return BY_TEXT.get((name, str(kind)), BY_CLASS[name])


NO_MODELS = {
    "adapter": ("a LoRA adapter", "merge it into its model first: llama-export-lora"),
    "mmproj": ("the part of a multimodal model that reads images", "name the text model's file"),
    "clip": ("the part of a multimodal model that reads images", "name the text model's file"),
    "imatrix": ("an importance matrix", "give it to `quantize` as its calibration: -c FILE"),
    "controlvector": ("a control vector", "name the model's file; llama.cpp adds it when it runs"),
}
"""Values of `general.type` and `general.architecture` in GGUF files that hold no model."""


def architecture_of_file(checkpoint: Checkpoint) -> str:
    """A GGUF file's `general.architecture`.

    Raises:
        CheckpointError: the file holds no model.
        UnsupportedError: it holds something else, or a vocabulary alone.
    """
    kind = checkpoint.metadata.get("general.type")
    named = checkpoint.metadata.get("general.architecture")
    for field in (kind, named):
        if field is not None and isinstance(field.value, str) and field.value in NO_MODELS:
            what, hint = NO_MODELS[field.value]
            raise UnsupportedError(f"{checkpoint.path} is {what}, not a model", hint)
    if named is not None and isinstance(named.value, str) and not checkpoint.tensors:
        raise UnsupportedError(
            f"{checkpoint.path} holds a vocabulary alone", "name a file with weights"
        )
    field = checkpoint.metadata.get("general.architecture")
    if field is None or not isinstance(field.value, str):
        raise CheckpointError(f"{checkpoint.path} holds no model", "it names no architecture")
    return field.value


def family_of_file(checkpoint: Checkpoint) -> Family:
    """The family that a GGUF file is written back as.

    Raises:
        CheckpointError: the file holds no model.
        UnsupportedError: no such family can be written back.
    """
    name = architecture_of_file(checkpoint)
    known = [family for family in FAMILIES if family.config is not None]
    found = [family for family in known if family.name == name]
    if not found:
        names = sorted({family.name for family in known})
        raise UnsupportedError(
            f"the family {name!r:.80} cannot be written as a Hugging Face checkpoint",
            f"known: {', '.join(names)}",
        )
    marked = (f for f in found if f.mark and f"{name}.{f.mark}" in checkpoint.metadata)
    return next(marked, found[0])


def nearest(name: str) -> str:
    """The classes that may be meant, and some of those that are known."""
    near = get_close_matches(name, BY_CLASS, n=3, cutoff=0.6)
    known = f"known: {shorten([family.classes[0] for family in FAMILIES], NAMED)}"
    return f"the nearest are {', '.join(near)}; {known}" if near else known
