"""Special tokens: their ids, what is put around a text, and what broken files lead to."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizer_oracles import (
    IDS,
    TOKENS,
    auto_tokenizer,
    ids_of,
    llama_tokenizer,
    save,
    template,
    tokenizer_json,
    tokenizer_metadata,
)

from qconvert.errors import CheckpointError, QconvertError, UnsupportedError
from qconvert.model.tokenizers.tokenizer import has_tokenizer


@pytest.mark.parametrize(
    ("before", "after"),
    [([], []), (["<s>"], []), ([], ["</s>"]), (["<s>"], ["</s>"]), (["<|stop|>"], ["<|pause|>"])],
)
def test_the_post_processor_s_tokens_are_put_around_a_text(
    before: list[str], after: list[str], tmp_path: Path
) -> None:
    tokenizer = tokenizer_json(*TOKENS, post_processor=template(before, after, IDS))
    directory = save(tmp_path / "model", tokenizer, {"bos_token": "<s>", "eos_token": "</s>"})
    metadata = tokenizer_metadata(directory, {}, "llama")
    with llama_tokenizer(metadata, tmp_path / "vocabulary.gguf") as llama_ids:
        expected = auto_tokenizer(directory)("hi")["input_ids"]
        assert llama_ids("hi") == expected
        assert len(expected) == len(before) + 1 + len(after)
        assert llama_ids("hi", add_special=False) == expected[len(before) :][:1]


@pytest.mark.parametrize("flags", [{"add_bos_token": True}, {"add_eos_token": True}])
def test_flags_beside_a_tokenizer_json_do_not_count_as_in_transformers(
    flags: dict[str, bool], tmp_path: Path
) -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    directory = save(tmp_path / "model", tokenizer_json(*TOKENS), {**names, **flags})
    metadata = tokenizer_metadata(directory, {}, "llama")
    with llama_tokenizer(metadata, tmp_path / "vocabulary.gguf") as llama_ids:
        assert llama_ids("hi") == auto_tokenizer(directory)("hi")["input_ids"]


@pytest.mark.parametrize("kind", ["RobertaProcessing", "BertProcessing"])
def test_the_older_post_processors_are_understood(kind: str, tmp_path: Path) -> None:
    processor = {"type": kind, "sep": ["</s>", 257], "cls": ["<s>", 256]}
    if kind == "RobertaProcessing":
        processor |= {"trim_offsets": True, "add_prefix_space": False}
    names = {"cls_token": "<s>", "sep_token": "</s>"}
    directory = save(tmp_path, tokenizer_json(*TOKENS, post_processor=processor), names)
    metadata = tokenizer_metadata(directory, {}, "llama")
    assert metadata["tokenizer.ggml.add_sep_token"].value is True
    with llama_tokenizer(metadata, tmp_path / "vocabulary.gguf") as llama_ids:
        assert llama_ids("hi") == auto_tokenizer(directory)("hi")["input_ids"]


def test_two_tokens_before_a_text_are_refused(tmp_path: Path) -> None:
    processor = template(["<s>", "<|stop|>"], [], IDS)
    directory = save(tmp_path, tokenizer_json(*TOKENS, post_processor=processor), {})
    with pytest.raises(UnsupportedError, match="puts 2 tokens before"):
        tokenizer_metadata(directory, {}, "llama")


def test_a_tokenizer_that_names_no_tokens_gets_them_from_the_configurations(tmp_path: Path) -> None:
    directory = save(tmp_path, tokenizer_json(*TOKENS), {})
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [258, 257]}))
    found = ids_of(directory, {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 260})
    assert (found["bos"], found["eos"], found["padding"]) == (256, 258, 260)


def test_the_older_map_of_special_tokens_is_read(tmp_path: Path) -> None:
    directory = save(tmp_path, tokenizer_json(*TOKENS), {"bos_token": None})
    names = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": "<|pause|>"}
    (directory / "special_tokens_map.json").write_text(json.dumps(names))
    found = ids_of(directory)
    assert (found["bos"], found["eos"], found["padding"]) == (256, 257, 261)


def test_ids_beyond_the_vocabulary_are_left_out(tmp_path: Path) -> None:
    directory = save(tmp_path, tokenizer_json(*TOKENS), {"eos_token": "</s>"})
    found = ids_of(directory, {"vocab_size": 264, "bos_token_id": 999, "pad_token_id": 264})
    assert found["eos"] == 257
    assert not {"bos", "padding"} & set(found)


def test_a_text_model_inside_a_larger_one_gives_the_size(tmp_path: Path) -> None:
    directory = save(tmp_path, tokenizer_json(*TOKENS), {})
    metadata = tokenizer_metadata(directory, {"text_config": {"vocab_size": 300}}, "gemma3")
    assert len(metadata["tokenizer.ggml.tokens"].value) == 300


@pytest.mark.parametrize(
    "changes",
    [
        {"model": None},
        {"model": []},
        {"model": {"type": "BPE", "vocab": {}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": "b"}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": 2**60}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": True}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [[1, 2]]}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": None}},
        {"model": {"type": "BPE", "vocab": {"\ud800": 0}, "merges": []}},
        {"model": {"type": "WordLevel", "vocab": {"a": 0}}},
        {"model": {"type": "Unigram", "vocab": [["a"]], "unk_id": 0}},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7}},
        {"model": {"type": "Unigram", "vocab": 3, "unk_id": 7}},
        {"added_tokens": 3},
        {"added_tokens": [3]},
        {"added_tokens": [{"id": 2**40, "content": "x"}]},
        {"added_tokens": [{"id": 1, "content": ""}]},
        {"post_processor": {"type": "TemplateProcessing"}},
        {"post_processor": {"type": "TemplateProcessing", "single": [{}, {}], "pair": []}},
        {"post_processor": {"type": "RobertaProcessing", "sep": 1, "cls": 2}},
        {"post_processor": 5},
        {"normalizer": 5},
        {"pre_tokenizer": {"type": "Split", "pattern": 5}},
    ],
)
def test_a_broken_tokenizer_json_gets_one_clear_error(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    save(tmp_path, tokenizer_json(*TOKENS) | changes, {})
    with pytest.raises(QconvertError) as caught:
        tokenizer_metadata(tmp_path, {}, "llama")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"model": {"type": "BPE"}', "[" * 100000])
def test_what_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        tokenizer_metadata(tmp_path, {}, "llama")


@pytest.mark.parametrize("size", ["many", -1, 2**40, 1.5, True])
def test_a_vocabulary_of_an_absurd_size_is_refused(size: object, tmp_path: Path) -> None:
    save(tmp_path, tokenizer_json(*TOKENS), {})
    with pytest.raises(CheckpointError, match="vocab_size"):
        tokenizer_metadata(tmp_path, {"vocab_size": size}, "llama")


def test_a_checkpoint_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    assert not has_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        tokenizer_metadata(tmp_path, {}, "llama")
    save(tmp_path, tokenizer_json(*TOKENS), {})
    assert has_tokenizer(tmp_path)
