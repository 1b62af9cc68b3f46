"""A tokenizer that went to GGUF and came back gives the ids that it gave before."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizer_oracles import (
    TEXTS,
    auto_tokenizer,
    byte_level_directory,
    llama_tokenizer,
    revealing_directory,
    save,
    tokenizer_metadata,
    train_sentencepiece,
)

from qconvert.checkpoint.metadata import Metadata, f32s, flag, i32s, text, texts, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.tokenizers.export import tokenizer_files
from qconvert.model.tokenizers.export_kinds import ALIASES
from qconvert.model.tokenizers.pretokenizers import (
    GPT2,
    PRETOKENIZERS,
    PUNCTUATION,
    Pretokenizer,
)
from qconvert.model.tokenizers.stored import read_stored

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
MORE = {
    "special": "<|begin|>a<|end|> b <|end|>\n<|begin|>",
    "plain added": "x<think>y</think> <think> z",
    "sentencepiece special": "<s>a</s> b <unk> <pad>c",
}


def published(entry: Pretokenizer) -> dict[str, Any]:
    special = {
        GPT2: {**BYTES, "use_regex": True},
        PUNCTUATION: {"type": "Punctuation", "behavior": "Contiguous"},
    }
    steps = [
        special.get(step)
        or {"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False}
        for step in entry.steps
    ]
    ends = [] if GPT2 in entry.steps else [BYTES]
    return {"type": "Sequence", "pretokenizers": [*steps, *ends]}


def write_back(metadata: Metadata, path: Path) -> Any:
    stored = read_stored(metadata, len(metadata["tokenizer.ggml.tokens"].value))
    assert stored is not None
    (path / "additional_chat_templates").mkdir(parents=True)
    for name, data in tokenizer_files(stored, 512).items():
        (path / name).write_bytes(data)
    return auto_tokenizer(path)


def assert_same_ids(original: Any, returned: Any, more: Mapping[str, str] = MORE) -> None:
    for name, content in {**TEXTS, **more}.items():
        expected = original(content)["input_ids"]
        assert returned(content)["input_ids"] == expected, name
        assert returned.decode(expected) == original.decode(expected), name


@pytest.mark.parametrize("entry", PRETOKENIZERS, ids=lambda entry: entry.name)
def test_every_pretokenizer_splits_as_before(entry: Pretokenizer, tmp_path: Path) -> None:
    directory = revealing_directory(
        tmp_path / "model", published(entry), ignore_merges=entry.ignore_merges
    )
    metadata = tokenizer_metadata(directory, {}, "llama")
    assert_same_ids(auto_tokenizer(directory), write_back(metadata, tmp_path / "back"))


@pytest.mark.parametrize("before", [None, "<|begin|>"])
def test_byte_level_tokens_and_flags_come_back(before: str | None, tmp_path: Path) -> None:
    block = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {**BYTES, "use_regex": True},
        ],
    }
    directory = byte_level_directory(tmp_path / "model", block, before=before)
    metadata = tokenizer_metadata(directory, {}, "llama")
    original, returned = auto_tokenizer(directory), write_back(metadata, tmp_path / "back")
    assert_same_ids(original, returned)
    assert (returned.bos_token, returned.eos_token) == (original.bos_token, original.eos_token)
    assert returned("a", "b")["input_ids"] == original("a", "b")["input_ids"]
    assert set(original.all_special_tokens) <= set(returned.all_special_tokens)
    assert "<think>" in returned.decode(returned("<think>")["input_ids"], skip_special_tokens=True)


def test_padding_behind_the_vocabulary_does_not_become_tokens(tmp_path: Path) -> None:
    block = {**BYTES, "use_regex": True}
    directory = byte_level_directory(tmp_path / "model", block, size=400)
    original = auto_tokenizer(directory)
    metadata = tokenizer_metadata(directory, {"vocab_size": len(original) + 64}, "llama")
    returned = write_back(metadata, tmp_path / "back")
    assert len(returned) == len(original)
    assert_same_ids(original, returned)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_bpe_comes_back_as_llama_cpp_and_sentencepiece_have_it(
    prefix: bool, tmp_path: Path
) -> None:
    import sentencepiece

    directory = train_sentencepiece(
        tmp_path / "model",
        "bpe",
        vocab_size=800,
        byte_fallback=True,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["<think>", "</think>"],
        pad_id=3,
    )
    metadata = tokenizer_metadata(directory, {}, "llama")
    returned = write_back(metadata, tmp_path / "back")
    original = sentencepiece.SentencePieceProcessor(str(directory / "tokenizer.model"))
    with llama_tokenizer(metadata, tmp_path / "vocabulary.gguf") as llama_ids:
        for name, content in {**TEXTS, **MORE}.items():
            assert returned(content)["input_ids"] == llama_ids(content), name
            if name not in MORE:
                ids = returned(content, add_special_tokens=False)["input_ids"]
                assert ids == original.encode(content), name
                assert returned.decode(ids) == original.decode(ids), name


def test_a_sentencepiece_tokenizer_json_comes_back(tmp_path: Path) -> None:
    """With all merges that its scores imply, as published ones have them."""
    directory = train_sentencepiece(
        tmp_path / "model",
        "bpe",
        vocab_size=700,
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
    )
    first = write_back(tokenizer_metadata(directory, {}, "llama"), tmp_path / "json")
    again = tokenizer_metadata(tmp_path / "json", {}, "llama")
    assert_same_ids(first, write_back(again, tmp_path / "back"))


@pytest.mark.parametrize("merged", [True, False])
def test_unigram_comes_back_as_llama_cpp_and_sentencepiece_have_it(
    merged: bool, tmp_path: Path
) -> None:
    import sentencepiece

    directory = train_sentencepiece(
        tmp_path / "model", "unigram", vocab_size=600, remove_extra_whitespaces=merged
    )
    (directory / "tokenizer_config.json").write_text('{"unk_token": "<unk>", "eos_token": "</s>"}')
    metadata = tokenizer_metadata(directory, {}, "t5")
    returned = write_back(metadata, tmp_path / "back")
    original = sentencepiece.SentencePieceProcessor(str(directory / "tokenizer.model"))
    with llama_tokenizer(metadata, tmp_path / "vocabulary.gguf") as llama_ids:
        for name, content in TEXTS.items():
            if not merged and "\r\n" in content:
                continue  # transformers normalizes the two as one character
            ids = returned(content, add_special_tokens=False)["input_ids"]
            assert ids == original.encode(content), name
            # Of a text of nothing but spaces llama.cpp drops one.
            if merged or content.strip():
                assert returned(content)["input_ids"] == llama_ids(content), name
    again = write_back(tokenizer_metadata(tmp_path / "back", {}, "t5"), tmp_path / "again")
    assert_same_ids(returned, again)


def bert_directory(path: Path, lower: bool) -> Path:
    from tokenizer_oracles import corpus
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    named = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    config = {f"{name}_token": token for name, token in named.items()}
    return save(path, json.loads(tokenizer.to_str()), config)


@pytest.mark.parametrize("lower", [True, False])
def test_wordpiece_comes_back(lower: bool, tmp_path: Path) -> None:
    directory = bert_directory(tmp_path / "model", lower)
    metadata = tokenizer_metadata(directory, {}, "bert")
    original, returned = auto_tokenizer(directory), write_back(metadata, tmp_path / "back")
    assert_same_ids(original, returned, {"special": "a [MASK] b[SEP]c [CLS]"})
    assert returned("a b", "c")["input_ids"] == original("a b", "c")["input_ids"]
    assert returned.cls_token == "[CLS]"
    assert returned.mask_token == "[MASK]"
    assert returned("a")["token_type_ids"] == [0] * len(returned("a")["input_ids"])


def tiny(**changes: Any) -> Metadata:
    """The keys of the smallest byte-level tokenizer."""
    keys = {
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text("gpt-2"),
        "tokenizer.ggml.tokens": texts(["<|end|>", "a", "b", "ab"]),
        "tokenizer.ggml.token_type": i32s([3, 1, 1, 1]),
        "tokenizer.ggml.merges": texts(["a b"]),
        "tokenizer.ggml.eos_token_id": u32(0),
    }
    return {**keys, **{f"tokenizer.{name}": field for name, field in changes.items()}}


def test_chat_templates_are_copied_and_never_run(tmp_path: Path) -> None:
    template = "{{ cycler.__init__.__globals__.os.system('touch /nowhere') }}\n{% broken"
    keys = tiny(**{"chat_template": text(template), "chat_template.tool_use": text("x")})
    write_back(keys, tmp_path / "back")
    assert (tmp_path / "back/chat_template.jinja").read_text() == template
    assert (tmp_path / "back/additional_chat_templates/tool_use.jinja").read_text() == "x"


@pytest.mark.parametrize(
    "changes",
    [
        {"chat_template.../../x": text("x")},
        {"chat_template": u32(1)},
        {"ggml.tokens": texts(["a", "a", "b", "ab"])},
        {"ggml.tokens": texts(["", "a", "b", "ab"])},
        {"ggml.tokens": texts(["x" * 5000, "a", "b", "ab"])},
        {"ggml.tokens": texts(["<|end|>", "a", "b"])},
        {"ggml.tokens": i32s([1, 2, 3, 4])},
        {"ggml.token_type": i32s([3, 1, 1, 99])},
        {"ggml.merges": texts(["a"])},
        {"ggml.merges": texts(["a c"])},
        {"ggml.model": u32(7)},
        {"ggml.model": text("llama")},
        {"ggml.model": text("t5")},
        {"ggml.scores": f32s([0.0])},
    ],
    ids=str,
)
def test_a_tokenizer_that_contradicts_itself_is_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError):
        write_back(tiny(**changes), tmp_path / "back")
    assert not list((tmp_path).rglob("*.jinja"))


@pytest.mark.parametrize("changes", [{"ggml.model": text("rwkv")}, {"ggml.pre": text("new")}])
def test_what_has_no_description_is_refused_with_a_list(changes: dict[str, Any]) -> None:
    stored = read_stored(tiny(**changes), 4)
    assert stored is not None
    with pytest.raises(UnsupportedError) as caught:
        tokenizer_files(stored, 512)
    assert "gpt" in caught.value.hint


def test_more_tokens_than_rows_are_refused() -> None:
    with pytest.raises(CheckpointError, match="rows"):
        read_stored(tiny(), 3)


def test_a_special_token_beyond_the_vocabulary_is_left_out_and_named() -> None:
    stored = read_stored(tiny(**{"ggml.bos_token_id": u32(2**32 - 1)}), 4)
    assert stored is not None
    assert "bos" not in stored.special
    assert "bos_token_id" in stored.notices[0]


def test_a_file_without_tokens_has_no_tokenizer() -> None:
    assert read_stored({"tokenizer.ggml.model": text("no_vocab")}, 4) is None
    assert read_stored({}, 4) is None


def test_what_is_put_around_a_text_follows_the_flags(tmp_path: Path) -> None:
    keys = tiny(**{"ggml.add_eos_token": flag(True)})
    assert write_back(keys, tmp_path / "back")("ab")["input_ids"] == [3, 0]


def test_aliases_name_known_pretokenizers() -> None:
    known = {entry.name for entry in PRETOKENIZERS}
    assert set(ALIASES.values()) <= known
    assert not set(ALIASES) & known
