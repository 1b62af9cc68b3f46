from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checkpoints import TINY, write_llama
from common import save_model
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qconvert.checkpoint import open_checkpoint
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError, PlanError, UnsupportedError
from qconvert.model.families.llama.llama import LLAMA
from qconvert.text import self_written
from qconvert.text.sample import draw_sample
from qconvert.text.self_written import _pick, first_tokens, write_sample
from qconvert.text.tokenizer import Tokenizer


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Tiny models wait for their threads more than they compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A generated model, and transformers' object of it."""
    path = tmp_path_factory.mktemp("tiny")
    model = save_model("llama", path)
    return open_checkpoint(str(path)), model


def write(
    checkpoint, windows: int, window: int, seed: int = 0, notes=None, kept=None
) -> np.ndarray:
    say = [].append if notes is None else notes.append
    draw = np.random.SeedSequence(seed)
    return write_sample(checkpoint, None, windows, window, draw, "cpu", say, kept)


def test_windows_are_as_many_and_as_long_as_asked_and_begin_with_bos(tiny):
    tokens = write(tiny[0], 5, 33)
    assert tokens.shape == (5, 33)
    assert tokens.dtype == np.int32
    assert (tokens[:, 0] == 1).all()
    assert len(np.unique(tokens, axis=0)) == 5


def test_finished_batches_are_taken_from_where_they_are_kept(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr("qconvert.text.self_written.BATCH", 2)
    whole = write(tiny[0], 5, 12)
    assert np.array_equal(write(tiny[0], 5, 12, kept=tmp_path / "w"), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w-0.npy", "w-2.npy", "w-4.npy"]
    (tmp_path / "w-4.npy").unlink()
    (tmp_path / "w-2.npy").write_bytes((tmp_path / "w-2.npy").read_bytes()[:-1])
    assert np.array_equal(write(tiny[0], 5, 12, kept=tmp_path / "w"), whole)
    np.save(tmp_path / "w-2.npy", np.zeros((2, 12), np.int32))
    assert not write(tiny[0], 5, 12, kept=tmp_path / "w")[2:4].any()


def test_the_seed_decides_the_words(tiny):
    first = write(tiny[0], 3, 20)
    assert np.array_equal(first, write(tiny[0], 3, 20))
    assert not np.array_equal(first, write(tiny[0], 3, 20, seed=1))


def test_batches_do_not_change_the_words(tiny, monkeypatch):
    whole = write(tiny[0], 5, 20)
    monkeypatch.setattr(self_written, "BATCH", 2)
    assert np.array_equal(whole, write(tiny[0], 5, 20))


def test_tokens_follow_the_models_distribution_with_all_that_came_before(tiny):
    """Drawn again from logits without a cache, by the same chances."""
    import torch

    checkpoint, model = tiny
    tokens = write(checkpoint, 4, 24)
    chances = np.random.default_rng(np.random.SeedSequence(0)).random((4, 24))
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens.astype(np.int64))).logits.double()
    for row in range(4):
        for at in range(1 + self_written.FIRST, 24):
            cumulative = torch.softmax(logits[row, at - 1], 0).cumsum(0).numpy()
            token = tokens[row, at]
            below = cumulative[token - 1] if token else 0.0
            assert below - 1e-5 <= chances[row, at] <= cumulative[token] + 1e-5


def test_the_first_tokens_are_among_the_likeliest(tiny, monkeypatch):
    import torch

    monkeypatch.setattr(self_written, "LIKELIEST", 3)
    tokens = write(tiny[0], 16, 6)
    with torch.no_grad():
        logits = tiny[1](torch.from_numpy(tokens.astype(np.int64))).logits
    likeliest = logits.topk(3).indices.numpy()
    for at in range(1, 1 + self_written.FIRST):
        assert all(tokens[row, at] in likeliest[row, at - 1] for row in range(16))


@given(
    arrays(np.float32, (3, 40), elements=st.floats(-30, 30, width=32)),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3),
    st.integers(0, 45),
)
def test_a_chance_picks_the_token_whose_share_it_falls_into(logits, chances, kept):
    picked = _pick(logits, np.array(chances), kept, "m")
    for row in range(3):
        order = np.sort(logits[row])
        edge = order[-kept] if 0 < kept < 40 else -np.inf
        weights = np.where(logits[row] >= edge, np.exp(logits[row].astype(np.float64)), 0)
        shares = np.cumsum(weights / weights.sum())
        assert weights[picked[row]] > 0
        assert chances[row] <= shares[picked[row]] + 1e-9
        assert shares[picked[row]] - weights[picked[row]] / weights.sum() <= chances[row] + 1e-9


def test_nan_is_an_error():
    with pytest.raises(CheckpointError, match="m computes NaN"):
        _pick(np.full((1, 4), np.nan, np.float32), np.zeros(1), 0, "m")


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "mixtral", "qwen3"])
def test_other_families_write_too(family, tmp_path):
    save_model(family, tmp_path)
    assert write(open_checkpoint(str(tmp_path)), 2, 24).shape == (2, 24)


def fake(before=(), bos=None, eos=None) -> Tokenizer:
    return Tokenizer(SimpleNamespace(bos_token_id=bos, eos_token_id=eos), before, (), ())


@pytest.mark.parametrize(
    ("tokenizer", "config", "first"),
    [
        (fake(before=(7,), bos=8), {"bos_token_id": 1}, (7,)),
        (fake(bos=8, eos=9), {"bos_token_id": 1}, (8,)),
        (fake(eos=9), {"bos_token_id": 1, "eos_token_id": 2}, (1,)),
        (fake(eos=9), {"eos_token_id": [2, 3]}, (9,)),
        (None, {"eos_token_id": [2, 3]}, (2,)),
        (None, {"bos_token_id": None, "text_config": {"bos_token_id": 5}}, (5,)),
    ],
)
def test_a_text_begins_with_bos_else_with_what_ends_the_text_before(
    tokenizer, config, first, monkeypatch
):
    monkeypatch.setattr(self_written, "find_family", lambda config: LLAMA)
    checkpoint = Checkpoint("huggingface", "m", Path("m"), config)
    assert first_tokens(checkpoint, tokenizer) == first


def test_nothing_to_begin_with_is_an_error(tmp_path):
    path = write_llama(tmp_path / "llama", TINY)
    with pytest.raises(UnsupportedError, match="names no token that a text begins with") as caught:
        write(open_checkpoint(str(path)), 1, 8)
    assert "--data" in caught.value.hint


def test_an_encoder_writes_nothing(tmp_path):
    save_model("bert", tmp_path)
    with pytest.raises(UnsupportedError, match="is an encoder and writes no text") as caught:
        write(open_checkpoint(str(tmp_path)), 1, 8)
    assert "--data" in caught.value.hint


def test_a_model_that_does_not_fit_into_memory_is_refused_before_it_is_loaded(tiny, monkeypatch):
    monkeypatch.setattr(self_written, "free_memory", lambda device: 10**6)
    with pytest.raises(PlanError, match=r"does not fit into memory .* 0\.0 GB are free") as caught:
        write(tiny[0], 1, 8)
    assert "--data" in caught.value.hint


def test_weights_that_cannot_be_loaded_are_an_error(tmp_path):
    save_model("llama", tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be loaded to write a sample"):
        write(checkpoint, 1, 8)


def test_no_data_means_the_model_writes_and_that_is_said(tiny, notes):
    sample = draw_sample([], tiny[0], tokens=100, window=20, seed=3, watcher=notes)
    assert sample.tokens.shape == (5, 20)
    assert sample.source == "written by the model itself"
    assert notes == [f"no text is given: {tiny[0].source} writes its own sample"]


def test_nothing_is_printed_meanwhile(tiny, capfd):
    write(tiny[0], 1, 4)
    assert capfd.readouterr() == ("", "")


def test_progress_is_told_with_the_time_left(tiny, monkeypatch):
    clock = iter(range(0, 10**6, 11))
    monkeypatch.setattr(self_written.time, "monotonic", lambda: next(clock))
    notes = []
    write(tiny[0], 2, 6, notes=notes)
    assert notes[1] == "writing a sample: 20%, 44 s left"
