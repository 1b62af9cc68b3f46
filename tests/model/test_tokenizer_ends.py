"""Where a generation ends: llama.cpp ends where transformers does, or a notice says where not."""

import json
from pathlib import Path
from typing import Any

import pytest
from speaking_models import save_speaking_model
from tokenizer_oracles import (
    IDS,
    TOKENS,
    ids_of,
    llama_ends,
    llama_tokenizer,
    save,
    template,
    tokenizer_json,
    train_sentencepiece,
)

from qconvert.checkpoint import open_checkpoint
from qconvert.model.open import open_model
from qconvert.model.tokenizers.ends import KNOWN_ENDS
from qconvert.model.tokenizers.tokenizer import Tokenizer, read_tokenizer


def read(directory: Path, ends: object = None, **config: Any) -> Tokenizer:
    if ends is not None:
        generation = json.dumps({"eos_token_id": ends})
        (directory / "generation_config.json").write_text(generation)
    return read_tokenizer(directory, config, "llama")


@pytest.mark.parametrize("text", KNOWN_ENDS)
def test_llama_cpp_knows_these_ends_by_their_texts(text: str, tmp_path: Path) -> None:
    save(tmp_path, tokenizer_json("<s>", text), {"eos_token": "<s>"})
    metadata = dict(read(tmp_path).metadata)
    for name in ("eot", "eom"):
        metadata.pop(f"tokenizer.ggml.{name}_token_id", None)
    assert llama_ends(metadata, tmp_path / "v.gguf") == {256, 257}


def test_ends_of_a_generation_are_kept(tmp_path: Path) -> None:
    """llama.cpp knows <|eot_id|> and <|eom_id|> by their texts, but not these two."""
    directory = save(tmp_path, tokenizer_json(*TOKENS), {"eos_token": "</s>"})
    generation = {"eos_token_id": [257, 258, 260, 261]}
    (directory / "generation_config.json").write_text(json.dumps(generation))
    found = ids_of(directory)
    assert (found["eos"], found["eot"], found["eom"]) == (257, 260, 261)


def test_the_end_of_a_turn_is_the_one_that_its_text_says(tmp_path: Path) -> None:
    directory = save(tmp_path, tokenizer_json(*TOKENS), {"eos_token": "</s>"})
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [257, 258]}))
    found = ids_of(directory)
    assert (found["eos"], found["eot"], found["eom"]) == (257, 258, 259)
    assert found["fim_pre"] == 262


def test_an_end_beyond_the_vocabulary_leaves_the_others(tmp_path: Path) -> None:
    """llama.cpp would take its own default, token 11."""
    save(tmp_path, tokenizer_json(*TOKENS), {})
    found = read(tmp_path, [999, 260, 261], vocab_size=264, eos_token_id=999)
    known = {IDS["</s>"], IDS["<|eot_id|>"], IDS["<|eom_id|>"]}
    assert llama_ends(found.metadata, tmp_path / "v.gguf") == {260, 261, *known}
    assert "ends a generation at 999, beyond its 264 tokens" in found.notices[-1]


def test_ends_that_gguf_has_no_key_for_are_named(tmp_path: Path) -> None:
    texts = ("</s>", "<|stop|>", "<|pause|>", "<|halt|>", "<|quit|>")
    save(tmp_path, tokenizer_json(*texts), {"eos_token": "</s>"})
    found = read(tmp_path, [256, 257, 258, 259, 260])
    assert llama_ends(found.metadata, tmp_path / "v.gguf") == {256, 257, 258}
    (notice,) = found.notices
    assert "does not end a generation at '<|halt|>', '<|quit|>'" in notice


@pytest.mark.parametrize(
    ("texts", "size", "expected"),
    [
        (["<s>"], 262, 258),  # padding: 256 is <s>, 257 is "hi"
        (["<s>"], 258, 256),
        (["<s>", "<|endoftext|>"], 262, 257),  # llama.cpp knows it
    ],
)
@pytest.mark.parametrize("end", [None, 999])
def test_a_model_without_an_end_does_not_end_at_token_11(
    texts: list[str], size: int, expected: int, end: int | None, tmp_path: Path
) -> None:
    save(tmp_path, tokenizer_json(*texts), {"bos_token": "<s>"})
    found = read(tmp_path, end, vocab_size=size, eos_token_id=end)
    assert llama_ends(found.metadata, tmp_path / "v.gguf") == {expected}
    told = [line for line in found.notices if "no token of the model ends a generation" in line]
    assert len(told) == (expected != 257)
    assert any("999" in line for line in found.notices) == (end is not None)


def test_what_llama_cpp_ends_at_in_spite_of_all_is_said(tmp_path: Path) -> None:
    save(tmp_path, tokenizer_json(), {})
    found = read(tmp_path, vocab_size=257)
    assert "tokenizer.ggml.eos_token_id" not in found.metadata
    (end,) = llama_ends(found.metadata, tmp_path / "v.gguf")
    (notice,) = found.notices
    text = found.metadata["tokenizer.ggml.tokens"].value[end]
    assert notice.endswith(f"ends at {end} ({text!r})")


def test_sentencepiece_s_default_end_is_not_taken_either(tmp_path: Path) -> None:
    settings = {"byte_fallback": True, "normalization_rule_name": "identity", "eos_id": -1}
    train_sentencepiece(tmp_path, "bpe", vocab_size=600, **settings)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    found = read(tmp_path, vocab_size=610)
    assert llama_ends(found.metadata, tmp_path / "v.gguf") == {600}


def test_named_tokens_and_affixes_beyond_the_vocabulary_are_left_out_and_named(
    tmp_path: Path,
) -> None:
    processor = template(["<s>"], ["<|late|>"], {"<s>": 256, "<|late|>": 300})
    tokenizer = tokenizer_json("<s>", "</s>", post_processor=processor)
    save(tmp_path, tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<|late|>"})
    found = read(tmp_path, vocab_size=259)
    lost = "added tokens without a row in the embedding of 259 are left out: '<|late|>'"
    assert found.notices[0] == lost
    assert "eos 300" in found.notices[1]
    assert "pad 259" in found.notices[1]
    with llama_tokenizer(found.metadata, tmp_path / "v.gguf") as ids:
        assert ids("hi") == [256, 258]  # and not llama.cpp's default at the end
    assert llama_ends(found.metadata, tmp_path / "v.gguf") == {257}


def test_what_is_lost_is_among_the_model_s_notices(tmp_path: Path) -> None:
    save_speaking_model(tmp_path)
    read(tmp_path, [5, 1600])
    (notice,) = open_model(open_checkpoint(str(tmp_path))).notices
    assert notice == "the model ends a generation at 1600, beyond its 1504 tokens: left out"
