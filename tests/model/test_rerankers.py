"""Decoders that rank: llama.cpp gives the shares that transformers' logits stand for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from common import FAMILIES, Family, convert_model, random_tokens, save_model, torch_logits
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
