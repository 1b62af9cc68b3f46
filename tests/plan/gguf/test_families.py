"""The mixtures on real families: generated checkpoints under their GGUF names, with the metadata
that each family writes."""

import common
import gguf
import numpy as np
import plain_models
import pytest
from encoder_models import save_encoder
from large_models import LARGE, save_large

from qconvert.calibration.importance import Importance
from qconvert.checkpoint.metadata import text
from qconvert.checkpoint.open import open_checkpoint
from qconvert.model.families import find_family
from qconvert.model.families.parts.common import text_config
from qconvert.model.mapping import map_tensors
from qconvert.model.numbers import number_keys
from qconvert.model.open import open_model
from qconvert.plan.gguf.file_types import FILE_TYPES
from qconvert.plan.gguf.mixture import choose_formats, facts_from_metadata
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.statistics import Statistics

KINDS = tuple(kind for kind in dict.fromkeys(FILE_TYPES.values()) if kind.name != "nvfp4")
"""But for one, of which llama-quantize makes no files."""


@pytest.mark.parametrize("wide", [False, True], ids=["tiny", "wide"])
@pytest.mark.parametrize("family", [*common.FAMILIES, *LARGE])
def test_every_family_gets_the_types_of_llama_quantize(family, wide, tmp_path, hollow, llama_types):
    save = save_large if family in LARGE else common.save_model
    save(family, tmp_path, wide=wide)
    assert_same_types(tmp_path, hollow, llama_types)


@pytest.mark.parametrize("family", plain_models.SMALL)
def test_every_plain_decoder_gets_the_types_of_llama_quantize(
    family, tmp_path, hollow, llama_types
):
    tied = family in plain_models.ALWAYS_TIED
    common.save_model(plain_models.PLAIN[family], tmp_path, tied=tied, wide=True)
    assert_same_types(tmp_path, hollow, llama_types)


@pytest.mark.parametrize(
    "name",
    [
        "XLMRobertaForSequenceClassification",
        "ModernBertForSequenceClassification",
        "NomicBertModel",
        "Gemma3TextModel",
        "JinaEmbeddingsV3Model",
        "T5EncoderModel",
    ],
)
def test_encoders_and_heads_that_classify_get_those_types_too(name, tmp_path, hollow, llama_types):
    labels = {number: f"label {number}" for number in range(5)}
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8}
    if name.startswith("Gemma3"):
        sizes |= {"layer_types": None}
    save_encoder(name, tmp_path, id2label=labels, **sizes)
    assert_same_types(tmp_path, hollow, llama_types)


def assert_same_types(folder, hollow, llama_types):
    checkpoint = open_checkpoint(str(folder))
    architecture = find_family(checkpoint.config)
    maps, _ = map_tensors(architecture, checkpoint.config, checkpoint.tensors)
    metadata = {"general.architecture": text(architecture.name)}
    settings = text_config(architecture, checkpoint.config)
    metadata |= architecture.metadata(settings)
    metadata |= number_keys(architecture, settings, checkpoint.tensors)
    facts = facts_from_metadata(metadata)
    tensors = [(tensor.name, tensor.shape, "F32") for tensor in maps]

    def formats(recipe):
        names = [name for name, _, _ in tensors]
        found = choose_formats(recipe, facts, tensors, names)
        return {choice.name: choice.format for choice in found}

    half = formats(Recipe("bf16"))
    path = folder / "bf16.gguf"
    writer = gguf.GGUFWriter(path, architecture.name)
    for key, field in metadata.items():
        if key != "general.architecture":
            writer.add_key_value(key, field.value, field.type, field.item)
    hollow(writer, path, [(name, shape, half[name]) for name, shape, _ in tensors])
    for kind in KINDS:
        if kind.quantized:
            theirs = llama_types(path, kind.ftype, importance=list(half))
            assert len(theirs) == len(tensors)
            assert formats(Recipe(kind.name)) == theirs, kind.name


def test_what_nothing_is_computed_with_needs_no_importance(tmp_path):
    save_large("gemma3n", tmp_path, wide=True, intermediate_size=256)
    model = open_model(open_checkpoint(str(tmp_path)))
    known = [t for t in model.tensors if "blk" in t.name and not t.unused]
    seen = {tensor.name: np.ones((1, tensor.columns)) for tensor in known}
    (tmp_path / "imatrix.gguf").touch()
    importance = Importance(tmp_path / "imatrix.gguf", seen, (), 1)
    plan = make_plan(model, Recipe("iq2_xs"), Statistics(importance))
    unused = [tensor.name for tensor in model.tensors if tensor.unused]
    assert {"blk.20.attn_k.weight", "blk.24.attn_v.weight"} < set(unused)
    assert not [notice for notice in plan.notices if "lacks" in notice]
    assert {t.format for t in plan.tensors if t.name in unused} == {"F32", "IQ2_XS", "Q4_K"}
