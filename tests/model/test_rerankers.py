"""Decoders that embed and rank: llama.cpp gives the vector of the last token, and the shares that
transformers' logits stand for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from common import (
    FAMILIES,
    Family,
    convert_model,
    llama_embeddings,
    random_tokens,
    save_model,
    tiny_model,
    torch_hidden,
    torch_logits,
)
from encoder_models import llama_ranks
from tokenizer_oracles import auto_tokenizer, byte_level_directory

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import UnsupportedError
from qconvert.model.open import open_model

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}


def shares(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max())
    return grown / grown.sum()


@pytest.mark.parametrize("tied", [True, False])
def test_the_answer_yes_is_weighed_against_no(tied: bool, tmp_path: Path) -> None:
    folder = tmp_path / "Qwen3-Reranker-tiny"
    byte_level_directory(
        folder,
        BYTE_LEVEL | {"use_regex": True},
        size=300,
        plain=("no", "yes"),
        config={"tokenizer_class": "Qwen2Tokenizer"},
    )
    model = save_model("qwen3", folder, tied=tied)
    plan = convert_model(folder, tmp_path / "f32.gguf", "f32")
    tokens = random_tokens(40)
    names, found = llama_ranks(tmp_path / "f32.gguf", tokens)
    assert names == ["yes", "no"]
    numbers = auto_tokenizer(folder).convert_tokens_to_ids(names)
    expected = torch_logits(model, tokens)[-1, numbers]
    assert abs(expected[0] - expected[1]) > 0.1
    assert found == pytest.approx(shares(expected), abs=1e-3)
    assert any("reranker" in notice for notice in plan.notices)
    metadata = open_model(open_checkpoint(str(tmp_path / "f32.gguf"))).metadata
    template = metadata["tokenizer.chat_template.rerank"].value
    assert "{query}" in template
    assert "{document}" in template


def test_the_last_token_is_the_vector_of_a_text(tmp_path: Path) -> None:
    """Qwen3-Embedding: a base model under the name of the causal class."""
    model = tiny_model("qwen3", tied=True).model
    model.save_pretrained(tmp_path)
    place = tmp_path / "config.json"
    config = json.loads(place.read_text()) | {"architectures": ["Qwen3ForCausalLM"]}
    place.write_text(json.dumps(config))
    modules = [{"type": "models.Transformer", "path": ""}, {"type": "Pooling", "path": "1_Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    pooling = {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(pooling))
    convert_model(tmp_path, tmp_path / "f32.gguf", "f32")
    tokens = random_tokens(40)
    (found,) = llama_embeddings(tmp_path / "f32.gguf", tokens, pooled=True)
    expected = torch_hidden(model, tokens)[-1]
    assert np.abs(found - expected).max() <= 1e-3 * np.ptp(expected)


def test_another_name_is_no_reranker(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "qwen3")
    model = open_model(open_checkpoint(str(tmp_path / "qwen3")))
    assert "cls.output.weight" not in model.shapes


RANKING = Family("Qwen3ForSequenceClassification", "Qwen3Config", FAMILIES["qwen3"].tiny)


def test_a_head_that_classifies_gives_shares(tmp_path: Path) -> None:
    labels = {0: "false", 1: "true", 2: "neither"}
    model = save_model(RANKING, tmp_path / "m", id2label=labels)
    plan = convert_model(tmp_path / "m", tmp_path / "f32.gguf", "f32")
    tokens = random_tokens(40)
    names, found = llama_ranks(tmp_path / "f32.gguf", tokens)
    assert names == list(labels.values())
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    assert np.ptp(expected) > 0.1
    assert found == pytest.approx(shares(expected), abs=1e-3)
    assert any("softmax" in notice for notice in plan.notices)


def test_a_single_label_is_refused(tmp_path: Path) -> None:
    save_model(RANKING, tmp_path / "m", id2label={0: "score"})
    with pytest.raises(UnsupportedError, match="each label's share"):
        convert_model(tmp_path / "m", tmp_path / "f32.gguf", "f32")
