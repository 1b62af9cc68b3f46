import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qconvert.text.windows import Seen, draw_starts, draw_windows


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


sizes = st.tuples(st.integers(0, 5000), st.integers(1, 60), st.integers(1, 90), st.integers(0, 99))


@given(sizes)
def test_windows_never_overlap_and_stay_inside(sizes):
    total, count, length, seed = sizes
    starts = draw_starts(total, count, length, generator(seed))
    assert (np.diff(starts) >= length).all()
    assert (starts >= 0).all()
    assert (starts + length <= total).all()


@given(sizes)
def test_as_many_are_drawn_as_asked_for_or_as_fit(sizes):
    total, count, length, seed = sizes
    starts = draw_starts(total, count, length, generator(seed))
    assert len(starts) == min(count, total // length)


@given(sizes)
def test_every_equal_part_of_the_stream_gives_one_window(sizes):
    total, count, length, seed = sizes
    starts = draw_starts(total, count, length, generator(seed))
    parts = len(starts)
    for number, start in enumerate(starts.tolist()):
        assert total * number // parts <= start
        assert start + length <= total * (number + 1) // parts


@given(sizes)
def test_the_seed_decides_all(sizes):
    total, count, length, seed = sizes
    first, again = (draw_starts(total, count, length, generator(seed)) for _ in range(2))
    assert np.array_equal(first, again)


def test_another_seed_draws_other_windows():
    first, other = (draw_starts(10**6, 50, 64, generator(seed)) for seed in (0, 1))
    assert not np.array_equal(first, other)


def test_windows_lie_anywhere_in_their_part():
    starts = np.array([draw_starts(100, 1, 10, generator(seed))[0] for seed in range(400)])
    assert starts.min() == 0
    assert starts.max() == 90


@given(st.integers(0, 99), st.integers(1, 30), st.integers(4, 80))
def test_a_stream_without_repeats_loses_no_window(seed, count, length):
    stream = np.arange(3000, dtype=np.int32)
    starts, repeats = draw_windows(stream, count, length, generator(seed), Seen())
    assert (len(starts), repeats) == (min(count, 3000 // length), 0)


def test_a_stream_that_repeats_itself_gives_each_window_once():
    chapter = generator(5).integers(0, 10**6, 400)
    stream = np.tile(chapter, 25).astype(np.int32)
    starts, repeats = draw_windows(stream, 20, 200, generator(0), Seen())
    windows = [stream[start : start + 200] for start in starts]
    counted = np.unique(np.concatenate(windows), return_counts=True)[1]
    assert len(starts) + repeats == 20
    assert 2 <= len(starts) <= 4  # 400 tokens, of which each window may hold half anew
    assert counted.sum() == 200 * len(starts)


def test_what_a_repeat_leaves_free_is_drawn_from_elsewhere():
    fresh = np.arange(10_000, dtype=np.int32)
    same = np.tile(np.arange(50_000, 50_100, dtype=np.int32), 100)
    stream = np.concatenate([same, fresh])
    starts, repeats = draw_windows(stream, 20, 100, generator(1), Seen())
    assert (len(starts), repeats) == (20, 0)
    assert (np.diff(starts) >= 100).all()
    assert (starts >= 9_900).sum() >= 18


def test_windows_of_an_earlier_source_count_as_seen():
    stream, seen = np.arange(1000, dtype=np.int32), Seen()
    draw_windows(stream, 10, 100, generator(0), seen)
    starts, repeats = draw_windows(stream, 10, 100, generator(1), seen)
    assert (len(starts), repeats) == (0, 10)


def test_a_phrase_that_texts_share_makes_no_repeat():
    phrase = np.arange(40)
    parts = [np.concatenate([phrase, np.arange(60) + 1000 * n]) for n in range(1, 21)]
    stream = np.concatenate(parts).astype(np.int32)
    starts, repeats = draw_windows(stream, 20, 100, generator(0), Seen())
    assert (len(starts), repeats) == (20, 0)
