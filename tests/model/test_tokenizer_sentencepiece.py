"""SentencePiece, BPE and unigram: llama.cpp gives the ids that transformers gives."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizer_oracles import (
    TEXTS,
    auto_tokenizer,
    corpus,
    differences,
    llama_tokenizer,
    save,
    tokenizer_metadata,
    train_sentencepiece,
)

from qconvert.errors import CheckpointError, UnsupportedError

LLAMA = {
    "vocab_size": 1000,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
}
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
PREPEND = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    ],
}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
SPLIT = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}
METASPACE = {
    "type": "Metaspace",
    "replacement": "\u2581",
    "prepend_scheme": "first",
    "split": False,
}
SPECIALS = {
    "special": "a<s>b </s> c<think>\nx </think>  y",
    "special_edges": "</s> x</s>",
    "unknown": "a <unk> b",
    "everything": " ".join(TEXTS.values()).strip(),
}
# A Metaspace puts no space before a text that begins with one, nor after a special token; to
# llama.cpp, as to SentencePiece, every text gets it.
LEADING = {"space", "spaces", "leading_space", "leading_spaces"}
METASPACE_ONLY = {*LEADING, "special", "special_edges", "unknown"}


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained `tokenizer.model` of Llama-2's kind."""
    directory = train_sentencepiece(tmp_path_factory.mktemp("bpe"), "bpe", **LLAMA)
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, **NAMES}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def bpe_json(bpe: Path) -> dict[str, Any]:
    """The tokenizer.json that transformers makes of it, with two added tokens."""
    tokenizer = auto_tokenizer(bpe)
    tokenizer.add_tokens(["<think>", "</think>"])
    converted = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in converted["added_tokens"]:
        token["normalized"] = False
    return converted


def processor(pieces: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor()
    model.LoadFromFile(str(pieces / "tokenizer.model"))
    return model


def test_a_bpe_model_file_gives_the_ids_of_sentencepiece(bpe: Path, tmp_path: Path) -> None:
    model = processor(bpe)
    found = differences(
        bpe, tmp_path, tokenizer=lambda text: {"input_ids": [1, *model.EncodeAsIds(text)]}
    )
    assert not found
    metadata = tokenizer_metadata(bpe, {}, "llama")
    assert metadata["tokenizer.ggml.model"].value == "llama"
    assert metadata["tokenizer.ggml.scores"].value[3:] == model.GetScore(list(range(3, 1000)))


def test_a_bpe_model_file_gives_the_ids_of_transformers(bpe: Path, tmp_path: Path) -> None:
    found = differences(bpe, tmp_path, more={"unknown": "a <unk> b"})
    assert set(found) <= METASPACE_ONLY, found


@pytest.mark.parametrize(
    ("family", "normalizer", "pre_tokenizer", "cannot"),
    [
        ("llama2, phi3", PREPEND, None, set()),
        ("gemma3", REPLACE, SPLIT, set()),
        ("mistral", None, METASPACE, METASPACE_ONLY),
        ("llama2, prefix always", None, {**METASPACE, "prepend_scheme": "always"}, METASPACE_ONLY),
        ("no prefix", None, {**METASPACE, "prepend_scheme": "never"}, set()),
    ],
)
def test_a_tokenizer_json_without_scores_gives_the_ids_of_transformers(
    family: str,
    normalizer: dict[str, Any] | None,
    pre_tokenizer: dict[str, Any] | None,
    cannot: set[str],
    bpe_json: dict[str, Any],
    tmp_path: Path,
) -> None:
    tokenizer = bpe_json | {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
    directory = save(tmp_path / "model", tokenizer, NAMES)
    metadata = tokenizer_metadata(directory, {}, "llama")
    assert metadata["tokenizer.ggml.model"].value == "llama"
    assert metadata["tokenizer.ggml.add_bos_token"].value is True
    found = differences(directory, tmp_path, more=SPECIALS)
    assert set(found) <= cannot, found


@pytest.mark.parametrize("normalizer", [PREPEND, REPLACE], ids=["llama", "gemma"])
def test_merges_that_no_scores_made_give_the_ids_of_transformers(
    normalizer: dict[str, Any], tmp_path: Path
) -> None:
    """Trained by the tokenizers library, across words, where every token has one merge."""
    from tokenizers import Tokenizer, models, trainers

    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    skeleton = json.loads(Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True)).to_str())
    tokenizer = Tokenizer.from_str(json.dumps(skeleton | {"normalizer": normalizer}))
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    saved = json.loads(tokenizer.to_str())
    saved["added_tokens"] = saved["added_tokens"][:3]
    directory = save(tmp_path / "model", saved, NAMES)
    assert not differences(directory, tmp_path, more={"special": "a<s>b </s> c"})


def test_gemma_s_runs_of_spaces_and_lines_give_the_ids_of_transformers(
    bpe_json: dict[str, Any], tmp_path: Path
) -> None:
    """Gemma lists them as added tokens that are not special, beside tags of HTML."""
    tokenizer = json.loads(json.dumps(bpe_json)) | {"normalizer": REPLACE, "pre_tokenizer": SPLIT}
    vocabulary = tokenizer["model"]["vocab"]
    longest = max(len(text) for text in vocabulary if set(text) == {"\u2581"})
    runs = ["\u2581" * count for count in range(2, longest + 4)]
    lines = ["\n" * count for count in range(1, 6)]
    merges = [list(pair) for pair in tokenizer["model"]["merges"]]
    # The runs come early in Gemma's vocabulary, so their merges come first, every way to split.
    cuts = [[run[:at], run[at:]] for run in runs for at in range(1, len(run))]
    merges = cuts + [pair for pair in merges if set("".join(pair)) != {"\u2581"}]
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:3]
    for text in [*runs, *lines, "<table>", "</table>", "<think>", "</think>"]:
        vocabulary.setdefault(text, len(vocabulary))
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        entry = {"id": vocabulary[text], "content": text, **flags, "special": False}
        tokenizer["added_tokens"].append(entry)
    tokenizer["model"]["merges"] = merges
    directory = save(tmp_path / "model", tokenizer, NAMES)
    more = {
        "runs": "x" + "".join(" " * count + "y" for count in range(1, 40)),
        "lines": "x" + "".join("\n" * count + "y" for count in range(1, 20)),
        "tags": "<table>a</table>  <table>\n\n</table>",
        "written": "a\u2581b\u2581\u2581c",
    }
    found = differences(directory, tmp_path, more=SPECIALS | more)
    assert not found, found
    metadata = tokenizer_metadata(directory, {}, "gemma3")
    types = metadata["tokenizer.ggml.token_type"].value
    assert types[vocabulary["<table>"]] == gguf.TokenType.USER_DEFINED
    assert types[vocabulary["\n\n"]] == gguf.TokenType.USER_DEFINED
    assert metadata["tokenizer.ggml.add_space_prefix"].value is False

    metadata = tokenizer_metadata(directory, {}, "gemma4")
    assert metadata["tokenizer.ggml.model"].value == "gemma4"
    theirs = auto_tokenizer(directory)
    with llama_tokenizer(metadata, tmp_path / "gemma4.gguf") as ids:
        for name, text in (TEXTS | SPECIALS | more).items():
            assert ids(text) == theirs(text)["input_ids"], name


@pytest.fixture(scope="module")
def unigram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained `tokenizer.model` of XLM-R's kind, with its compiled normalization."""
    ids = {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "<pad>"}
    return train_sentencepiece(
        tmp_path_factory.mktemp("unigram"), "unigram", vocab_size=600, unk_surface="<unk>", **ids
    )


def test_a_unigram_model_file_gives_the_ids_of_sentencepiece(unigram: Path, tmp_path: Path) -> None:
    (unigram / "tokenizer_config.json").write_text(json.dumps(NAMES))
    model = processor(unigram)
    found = differences(
        unigram, tmp_path, tokenizer=lambda text: {"input_ids": [*model.EncodeAsIds(text), 2]}
    )
    assert not found
    metadata = tokenizer_metadata(unigram, {}, "bert")
    assert metadata["tokenizer.ggml.model"].value == "t5"
    assert metadata["tokenizer.ggml.precompiled_charsmap"].item == gguf.GGUFValueType.UINT8


@pytest.mark.parametrize("form", ["words", "replace"])
def test_a_unigram_tokenizer_json_gives_the_ids_of_transformers(
    form: str, unigram: Path, tmp_path: Path
) -> None:
    directory = save_xlm_roberta(unigram, tmp_path / "model", form)
    mask = {"mask": "a <mask> b<mask>", "pair": "a</s></s>b"}
    assert not differences(directory, tmp_path, more=SPECIALS | mask)
    metadata = tokenizer_metadata(directory, {"type_vocab_size": 1}, "bert")
    assert metadata["tokenizer.ggml.add_bos_token"].value is True
    assert metadata["tokenizer.ggml.add_eos_token"].value is True
    assert metadata["tokenizer.ggml.token_type_count"].value == 1
    assert metadata["tokenizer.ggml.mask_token_id"].value == 600


def save_xlm_roberta(unigram: Path, directory: Path, form: str) -> Path:
    """XLM-R's tokenizer.json, in either of the forms that transformers has written."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )
    from transformers.convert_slow_tokenizer import SentencePieceExtractor

    proto = SentencePieceExtractor(str(unigram / "tokenizer.model")).proto
    charsmap = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    tokenizer = Tokenizer(models.Unigram([(p.piece, p.score) for p in proto.pieces], unk_id=3))
    if form == "words":
        tokenizer.normalizer = charsmap
        words = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    else:
        spaces = normalizers.Replace(Regex(" {2,}"), "\u2581")
        steps = [charsmap, normalizers.Strip(left=False), spaces]
        tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    mask = AddedToken("<mask>", lstrip=True)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", mask])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    names = {**NAMES, "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    return save(directory, json.loads(tokenizer.to_str()), {**names, "mask_token": "<mask>"})


def test_tokens_without_bytes_are_refused(bpe_json: dict[str, Any], tmp_path: Path) -> None:
    model = {**bpe_json["model"], "byte_fallback": False}
    directory = save(tmp_path, bpe_json | {"model": model}, NAMES)
    with pytest.raises(UnsupportedError, match="single bytes"):
        tokenizer_metadata(directory, {}, "llama")


@pytest.mark.parametrize(
    "normalizer",
    [{"type": "NFKC"}, {"type": "Lowercase"}, {**REPLACE, "content": "_"}],
)
def test_a_change_of_text_that_llama_cpp_does_not_make_is_refused(
    normalizer: dict[str, Any], bpe_json: dict[str, Any], tmp_path: Path
) -> None:
    directory = save(tmp_path, bpe_json | {"normalizer": normalizer}, NAMES)
    with pytest.raises(UnsupportedError, match=str(normalizer["type"])):
        tokenizer_metadata(directory, {}, "llama")


def test_the_vocabulary_is_padded_with_unused_tokens(bpe: Path, tmp_path: Path) -> None:
    metadata = tokenizer_metadata(bpe, {"vocab_size": 1010}, "llama")
    assert metadata["tokenizer.ggml.tokens"].value[1000:1002] == ["[PAD1000]", "[PAD1001]"]
    assert metadata["tokenizer.ggml.token_type"].value[1009] == gguf.TokenType.UNUSED
    assert len(metadata["tokenizer.ggml.scores"].value) == 1010
    with llama_tokenizer(metadata, tmp_path / "vocabulary.gguf") as ids:
        assert max(ids("Hello [PAD1000] \U0001f680")) < 1000


@pytest.mark.parametrize("cut", [0, 1, 7, 100, 5000])
def test_a_broken_model_file_is_refused(cut: int, bpe: Path, tmp_path: Path) -> None:
    data = (bpe / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(data[:cut])
    with pytest.raises((CheckpointError, UnsupportedError)):
        tokenizer_metadata(tmp_path, {}, "llama")


def test_user_defined_pieces_of_a_model_file_are_found_first(tmp_path: Path) -> None:
    """Gemma's .model lists runs of spaces and tags so."""
    symbols = ["<tag>", "\u2581\u2581\u2581", "\n\n"]
    directory = train_sentencepiece(
        tmp_path / "model", "bpe", **LLAMA, user_defined_symbols=symbols, add_dummy_prefix=False
    )
    (directory / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False, **NAMES}))
    model = processor(directory)
    more = {"tags": "a<tag>b   <tag> \n\n\n", "spaces": "   x   y"}
    found = differences(
        directory, tmp_path, tokenizer=lambda t: {"input_ids": model.EncodeAsIds(t)}, more=more
    )
    assert not found
    metadata = tokenizer_metadata(directory, {}, "gemma")
    assert metadata["tokenizer.ggml.tokens"].value[3:6] == ["<tag>", "   ", "\n\n"]
    assert metadata["tokenizer.ggml.token_type"].value[3:6] == [gguf.TokenType.USER_DEFINED] * 3
    assert metadata["tokenizer.ggml.add_space_prefix"].value is False
