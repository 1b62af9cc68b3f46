"""`tokenizer.model`: a SentencePiece model, where a checkpoint has no tokenizer.json.

A protocol buffer (sentencepiece_model.proto), read as it stands:

    1 pieces           1 piece (text), 2 score (float), 3 type
    2 trainer_spec     3 model_type (1 unigram, 2 BPE)
    3 normalizer_spec  2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces

The types of pieces have the numbers that llama.cpp gives its token types.
"""

import struct

from qconvert.checkpoint.files import read_small
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.tokenizers.files import TokenizerFiles
from qconvert.model.tokenizers.library import check_charsmap
from qconvert.model.tokenizers.sentencepiece import vocabulary_of_pieces
from qconvert.model.tokenizers.unigram import unigram_vocabulary
from qconvert.model.tokenizers.vocabulary import NORMAL, UNKNOWN, Vocabulary

_UNIGRAM, _BPE = 1, 2
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5

Piece = tuple[str, float, int]


def read_tokenizer_model(files: TokenizerFiles) -> Vocabulary:
    """The vocabulary of `tokenizer.model`, BPE or unigram.

    Raises:
        CheckpointError: the file is no SentencePiece model.
        UnsupportedError: it is one of words or characters, or lacks what llama.cpp needs.
    """
    data = read_small(files.path, "tokenizer.model")
    try:
        return _read(files, data)
    except (ValueError, struct.error) as error:
        raise CheckpointError(f"tokenizer.model is no SentencePiece model: {error}") from None


def _read(files: TokenizerFiles, data: bytes) -> Vocabulary:
    model = _fields(data)
    pieces = [_piece(_message(value)) for number, value in model if number == 1]
    sections = dict(model)
    if not pieces or 2 not in sections:
        raise ValueError("it has no pieces or does not say how it was trained")
    trainer = dict(_fields(_message(sections.get(2, b""))))
    normalizer = dict(_fields(_message(sections.get(3, b""))))
    charsmap = check_charsmap(_message(normalizer.get(2, b"")))
    prefix = bool(normalizer.get(3, True))
    kind = trainer.get(3, _UNIGRAM)
    if kind == _BPE:
        if charsmap:
            raise UnsupportedError(
                "tokenizer.model normalizes text, which llama.cpp does not for BPE"
            )
        return vocabulary_of_pieces(files, pieces, prefix)
    if kind != _UNIGRAM:
        raise UnsupportedError("tokenizer.model is neither BPE nor unigram")
    unknown = [number for number, (_, _, kind) in enumerate(pieces) if kind == UNKNOWN]
    if not unknown:
        raise ValueError("it has no unknown token")
    preparation = (prefix, bool(normalizer.get(4, True)), charsmap)
    scored = [(text, score) for text, score, _ in pieces]
    vocabulary = unigram_vocabulary(files, scored, unknown[0], preparation)
    for number, (text, _, kind) in enumerate(pieces[: len(vocabulary.types)]):
        if vocabulary.tokens[number] == text and number not in vocabulary.added:
            vocabulary.types[number] = kind
    return vocabulary


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    score = _message(fields.get(2, bytes(4)))
    kind = fields.get(3, NORMAL)
    if not isinstance(kind, int) or not NORMAL <= kind <= 6:
        raise ValueError(f"a piece has the type {kind!r}")
    return _message(fields.get(1, b"")).decode(), struct.unpack("<f", score)[0], kind


def _message(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a field has the wrong type")
    return value


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a protocol buffer message: number and value, in order."""
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        value: int | bytes
        if wire == _VARINT:
            value, at = _varint(data, at)
        else:
            size = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(wire, -1)
            if wire == _LENGTH:
                size, at = _varint(data, at)
            if size < 0 or at + size > len(data):
                raise ValueError("a field is longer than the file")
            value, at = data[at : at + size], at + size
        found.append((key >> 3, value))
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("a number is cut off")
