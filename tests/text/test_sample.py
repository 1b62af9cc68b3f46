import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from common import silence_llama
from hypothesis import given
from hypothesis import strategies as st
from packages import minilm_archive, smollm2_gguf
from tokenizer_oracles import auto_tokenizer, corpus

from qconvert.checkpoint import open_checkpoint
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError, UnsupportedError, UsageError
from qconvert.text.sample import _shares, draw_sample
from qconvert.text.tokenizer import load_tokenizer
from qconvert.text.types import Sample

WORDS = sorted(set("".join(corpus()).split()))
PROSE = " ".join(random.Random(5).choices(WORDS, k=6000))  # no part of it comes twice
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "[{{ message.role }}] {{ message.content }}\n{% endfor %}"
)
Draw = Callable[..., Sample]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def make(name: str, content: str | bytes | list) -> str:
        path = tmp_path / name
        if isinstance(content, list):
            content = "\n".join(map(json.dumps, content))
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return make


@pytest.fixture
def draw(notes) -> Draw:
    def make(
        checkpoint: Checkpoint, *data: str, tokens: int = 640, window: int = 64, seed: int = 0
    ) -> Sample:
        return draw_sample(data, checkpoint, tokens=tokens, window=window, seed=seed, watcher=notes)

    return make


@pytest.fixture(scope="module")
def smollm2() -> Checkpoint:
    """A real GGUF file."""
    return open_checkpoint(str(smollm2_gguf()))


@pytest.fixture
def minilm(tmp_path: Path) -> Checkpoint:
    """The tokenizer of a real encoder, whose files ask for truncation and padding."""
    archive = minilm_archive()
    for name in archive.namelist():
        if name.endswith(("config.json", "tokenizer.json")) and "Pooling" not in name:
            archive.extract(name, tmp_path / "minilm")
    path = next((tmp_path / "minilm").rglob("tokenizer.json")).parent
    config = json.loads((path / "config.json").read_text())
    return Checkpoint("huggingface", "minilm", path, config)


def positions(row: np.ndarray, stream: list[int]) -> list[int]:
    """Where the tokens of a row stand in a stream."""
    wanted = row.tolist()
    return [
        at for at in range(len(stream) - len(wanted) + 1) if stream[at : at + len(wanted)] == wanted
    ]


def test_windows_are_slices_of_the_whole_text_spread_over_it(model, write, draw, notes):
    checkpoint = model(before=None)
    sample = draw(checkpoint, write("a.txt", PROSE))
    stream = auto_tokenizer(checkpoint.path)(PROSE, verbose=False)["input_ids"]
    starts = [positions(row, stream)[0] for row in sample.tokens]
    assert sample.tokens.shape == (10, 64)
    assert sample.tokens.dtype == np.int32
    assert (np.diff(starts) >= 64).all()
    for number, start in enumerate(starts):
        assert len(stream) * number // 10 <= start < len(stream) * (number + 1) // 10
    assert notes == []


def test_every_window_begins_as_the_tokenizer_begins_a_text(model, write, draw):
    checkpoint = model(before="<|begin|>")
    sample = draw(checkpoint, write("a.txt", PROSE))
    tokenizer = auto_tokenizer(checkpoint.path)
    stream = tokenizer(PROSE, add_special_tokens=False, verbose=False)["input_ids"]
    assert (sample.tokens[:, 0] == tokenizer.bos_token_id).all()
    assert all(positions(row[1:], stream) for row in sample.tokens)


def test_an_encoders_windows_are_framed_as_its_texts_are(minilm, write, draw):
    sample = draw(minilm, write("a.txt", PROSE))
    stream = auto_tokenizer(minilm.path).backend_tokenizer
    stream.no_truncation()
    stream.no_padding()
    ids = stream.encode(PROSE, add_special_tokens=False).ids
    assert (sample.tokens[:, 0] == 101).all()
    assert (sample.tokens[:, -1] == 102).all()
    assert all(positions(row[1:-1], ids) for row in sample.tokens)


def test_a_gguf_files_own_tokenizer_is_used(smollm2, write, draw):
    import llama_cpp

    silence_llama()
    model = llama_cpp.Llama(str(smollm2.path), vocab_only=True, verbose=False)
    ids = model.tokenize(PROSE.encode(), add_bos=False, special=True)
    sample = draw(smollm2, write("a.txt", PROSE))
    assert all(positions(row, ids) for row in sample.tokens)


def test_conversations_go_through_a_real_models_template(smollm2, write, draw):
    sample = draw(smollm2, write("a.jsonl", CHATS), window=256)
    text = load_tokenizer(smollm2).inner.decode(sample.tokens.reshape(-1).tolist())
    assert "<|im_start|>system\nYou are a helpful AI assistant named SmolLM" in text
    assert "<|im_start|>user\n" in text


def test_the_same_arguments_give_the_same_tokens_and_another_seed_others(model, write, draw):
    checkpoint, path = model(), write("a.txt", PROSE)
    first = draw(checkpoint, path)
    assert np.array_equal(first.tokens, draw(checkpoint, path).tokens)
    assert not np.array_equal(first.tokens, draw(checkpoint, path, seed=1).tokens)


def test_at_least_as_many_tokens_are_drawn_as_asked_for(model, write, draw):
    sample = draw(model(), write("a.txt", PROSE), tokens=641)
    assert sample.tokens.shape == (11, 64)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9), st.integers(1, 200))
def test_shares_are_in_proportion_and_none_is_left_out(weights, total):
    shares = _shares(weights, total)
    exact = [weight / sum(weights) * total for weight in weights]
    assert all(share == 1 or abs(share - e) < 1 for share, e in zip(shares, exact, strict=True))
    assert min(shares) >= 1
    assert sum(shares) >= total


def test_weights_share_the_tokens(model, write, draw):
    checkpoint = model(before=None)
    lower, upper = write("lower.txt", PROSE), write("upper.txt", PROSE.upper())
    sample = draw(checkpoint, lower, upper + ":3", tokens=64 * 8)
    tokenizer = auto_tokenizer(checkpoint.path)
    texts = [tokenizer.decode(row) for row in sample.tokens]
    assert [text == text.upper() for text in texts] == [False] * 2 + [True] * 6
    assert sample.source.startswith("lower.txt (weight 1, ")
    assert "upper.txt (weight 3, " in sample.source


def test_the_source_is_named_without_directories_and_with_what_it_was(model, write, draw):
    checkpoint = model()
    first = draw(checkpoint, write("a.txt", PROSE)).source
    other = draw(checkpoint, write("a.txt", PROSE + "more")).source
    assert first.startswith("a.txt (")
    assert "/" not in first
    assert first != other


def test_documents_end_with_the_token_that_ends_a_text(model, write, draw):
    checkpoint = model(before=None)
    texts = [f"document {n} of many" for n in range(200)]
    sample = draw(checkpoint, write("a.jsonl", [{"text": text} for text in texts]))
    tokenizer = auto_tokenizer(checkpoint.path)
    stream = [
        number
        for text in texts
        for number in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    ]
    assert all(positions(row, stream) for row in sample.tokens)


def test_documents_that_repeat_are_dropped_and_counted(model, write, draw, notes):
    checkpoint = model()
    texts = [f"document {n}: {PROSE[n * 500 : n * 500 + 480]}" for n in range(20)]
    once = draw(checkpoint, write("a.jsonl", [{"text": text} for text in texts]))
    again = draw(checkpoint, write("b.jsonl", [{"text": text} for text in texts + texts[:7]]))
    assert np.array_equal(once.tokens, again.tokens)
    assert notes == ["b.jsonl: 7 documents left out as repeats"]


def test_a_text_that_repeats_itself_is_said_to(model, write, draw, notes):
    sample = draw(model(), write("a.txt", PROSE[:1000] * 20))
    assert len(sample.tokens) < 10
    assert any("left out as repeats" in note for note in notes)
    assert "the sample is smaller than asked for" in notes[-1]


def test_a_sample_that_is_too_small_is_said(model, write, draw, notes):
    sample = draw(model(), write("a.txt", PROSE[:1500]))
    had = len(sample.tokens)
    assert 1 <= had < 10
    assert notes == [
        f"a.txt has text for {had} window{'s' * (had > 1)} of the 10 wanted",
        f"the sample is smaller than asked for: {64 * had} tokens, not 640",
    ]


@pytest.mark.parametrize("content", ["three short words", " \n "])
def test_text_for_not_even_one_window_is_an_error(model, write, draw, content):
    with pytest.raises(CheckpointError, match=r"a\.txt does not have enough text"):
        draw(model(), write("a.txt", content))


def test_more_is_read_where_the_first_text_makes_too_few_tokens(minilm, write, draw, notes):
    # This tokenizer drops blanks, and so the first reading has far too few tokens.
    text = "".join(f"word{n}{' ' * 1000}\n" for n in range(1000))
    sample = draw(minilm, write("a.txt", text), tokens=64 * 30)
    assert sample.tokens.shape == (30, 64)
    assert notes == []


def test_half_of_a_surrogate_pair_is_no_obstacle(model, write, draw):
    documents = [{"text": f"\ud800 {PROSE[n : n + 500]}"} for n in range(0, 5000, 500)]
    assert len(draw(model(), write("a.jsonl", documents)).tokens) > 1


CHATS = [
    {"messages": [{"role": "user", "content": PROSE[n : n + 300]}]} for n in range(0, 9000, 300)
]


def test_conversations_go_through_the_models_own_template(model, write, draw):
    checkpoint = model(template=TEMPLATE)
    sample = draw(checkpoint, write("a.jsonl", CHATS))
    tokenizer = auto_tokenizer(checkpoint.path)
    stream = [
        number
        for chat in CHATS
        for number in tokenizer.apply_chat_template(chat["messages"])["input_ids"][1:]
    ]
    assert all(positions(row[1:], stream) for row in sample.tokens)
    assert not (sample.tokens[:, 1:] == tokenizer.bos_token_id).any()


def test_conversations_that_the_template_refuses_are_counted(model, write, draw, notes):
    refused = {"messages": [{"role": "system", "content": "x"}]}
    draw(model(template=TEMPLATE), write("a.jsonl", [CHATS[0], refused, *CHATS[1:]]))
    assert notes == [
        "a.jsonl: the chat template refuses 1 conversation (the first: line 2: no system role)"
    ]


def test_a_template_that_refuses_all_is_an_error(model, write, draw):
    refused = {"messages": [{"role": "system", "content": "x"}]}
    with pytest.raises(CheckpointError, match="refuses every conversation: no system role"):
        draw(model(template=TEMPLATE), write("a.jsonl", [refused]))


def test_conversations_need_a_template(model, write, draw):
    with pytest.raises(UnsupportedError, match="the model has no chat template"):
        draw(model(), write("a.jsonl", CHATS))


def test_standard_input_is_a_text_like_any_other(model, write, draw, monkeypatch):
    checkpoint = model()
    named = draw(checkpoint, write("a.txt", PROSE))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(PROSE.encode())))
    piped = draw(checkpoint, "-")
    assert np.array_equal(named.tokens, piped.tokens)
    assert piped.source == named.source.replace("a.txt", "standard input")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    with pytest.raises(CheckpointError, match="standard input is empty"):
        draw(checkpoint, "-")


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"tokens": 0}, "must be above zero"),
        ({"window": 1}, "must be above zero"),
        ({"seed": -1}, "must be above zero"),
        ({"window": 513}, "longer than the model's longest text, 512"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(model, write, draw, numbers, said):
    with pytest.raises(UsageError, match=said):
        draw(model(), write("a.txt", PROSE), **numbers)


def test_a_tokenizer_of_another_model_is_found_out(model, write, draw):
    with pytest.raises(CheckpointError, match=r"its tokenizer gives token \d+, .* model has 300"):
        draw(model(vocab_size=300), write("a.txt", PROSE))


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path, write, draw):
    (tmp_path / "bare").mkdir()
    checkpoint = Checkpoint("huggingface", "bare", tmp_path / "bare", {"model_type": "gpt2"})
    with pytest.raises(CheckpointError, match="bare has no tokenizer"):
        draw(checkpoint, write("a.txt", PROSE))
    (tmp_path / "bare/tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="bare: its tokenizer cannot be loaded"):
        draw(checkpoint, write("a.txt", PROSE))


def test_no_code_of_a_tokenizer_is_run(model, write, draw, tmp_path):
    checkpoint = model()
    mark = tmp_path / "was-run"
    (checkpoint.path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    file = checkpoint.path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="tokenizer cannot be loaded"):
        draw(checkpoint, write("a.txt", PROSE))
    assert not mark.exists()
