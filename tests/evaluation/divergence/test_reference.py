"""References that are computed once and kept."""

from pathlib import Path

import numpy as np
import pytest
import torch

from qconvert.errors import CheckpointError, UsageError, WeightError
from qconvert.evaluation.divergence.reference import distributions, key_of
from qconvert.text.perplexity_windows import make_windows

VOCABULARY, WIDTH = 3000, 16


class Random:
    """A runtime whose logits are a matrix times hidden states, and which counts its runs."""

    backend = "torch"

    def __init__(self, noise: float = 0.0, vocabulary: int = VOCABULARY) -> None:
        rng = np.random.default_rng(0)
        self.weights = rng.standard_normal((WIDTH, vocabulary)).astype(np.float32)
        self.noise = noise
        self.runs = 0

    def hidden(self, windows):
        self.runs += 1
        for number in range(len(windows.tokens)):
            draw = np.random.default_rng([number])
            scored = windows.targets.shape[1]
            states = draw.standard_normal((scored, WIDTH))
            yield (states + self.noise * draw.standard_normal(states.shape)).astype(np.float32)

    def project(self, hidden):
        return hidden @ self.weights

    def logits(self, windows):
        for hidden in self.hidden(windows):
            yield self.project(hidden)


class LogitsOnly:
    backend = "llama.cpp"

    def __init__(self, inner: Random) -> None:
        self.logits = inner.logits


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("QCONVERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "references"


@pytest.fixture
def windows():
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, (5, 32))
    return make_windows(tokens.astype(np.int32), "text.txt")


def by_torch(windows, base, other):
    """loss, divergence, same top and delta p, in float64 throughout."""
    found = []
    for targets, p, q in zip(
        windows.targets, base.logits(windows), other.logits(windows), strict=True
    ):
        p, q = (torch.from_numpy(one).double().log_softmax(1) for one in (p, q))
        true = torch.from_numpy(targets.astype(np.int64))[:, None]
        divergence = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(1)
        found.append(
            (
                -q.gather(1, true)[:, 0],
                divergence,
                p.argmax(1) == q.argmax(1),
                (q.exp() - p.exp()).gather(1, true)[:, 0],
            )
        )
    return [torch.stack(values).numpy() for values in zip(*found, strict=True)]


def test_the_exact_form_gives_exact_scores(windows):
    base, other = Random(), Random(0.3)
    with distributions(base, windows, "k", exact=True) as kept:
        scores, bound = kept.score(other.logits(windows), "x")
        again, _ = kept.score(base.logits(windows), "itself")
    loss, divergence, same, delta = by_torch(windows, base, other)
    assert bound == 0
    assert np.allclose(scores.loss, loss, rtol=0, atol=1e-5)
    assert np.allclose(scores.divergence, divergence, rtol=0, atol=1e-5)
    assert np.array_equal(scores.same_top, same)
    assert np.allclose(scores.delta_p, delta, rtol=0, atol=1e-5)
    assert (again.divergence == 0).all()
    assert (again.delta_p == 0).all()
    assert again.same_top.all()


def test_the_compact_form_is_within_its_bound(windows):
    base, other = Random(), Random(0.3)
    with distributions(base, windows, "k") as kept:
        scores, bound = kept.score(other.logits(windows), "x")
        again, none = kept.score(base.logits(windows), "itself")
    loss, divergence, same, delta = by_torch(windows, base, other)
    assert abs(scores.divergence.mean() - divergence.mean()) <= bound
    assert 0 < bound < 1e-3
    assert np.allclose(scores.loss, loss, rtol=0, atol=1e-5)
    assert np.array_equal(scores.same_top, same)
    assert np.allclose(scores.delta_p, delta, rtol=0, atol=1e-5)
    assert abs(again.divergence.mean()) < 1e-6
    assert none < 1e-6


@pytest.mark.parametrize("exact", [True, False])
def test_it_is_computed_once(windows, exact, cache):
    base, told, done = Random(), [], []
    with distributions(base, windows, "k", exact=exact, note=told.append, done=done.append) as one:
        first = one.score(Random(0.3).logits(windows), "x")
    assert done == [1, 2, 3, 4, 5]
    assert "kept for later runs" in told[0]
    assert "MB" in told[0]
    assert [path.name for path in cache.iterdir()] == ["k.zip"]
    with distributions(base, windows, "k", exact=exact, note=told.append, done=done.append) as two:
        second = two.score(Random(0.3).logits(windows), "x")
    assert base.runs == 1
    assert len(told) == 1
    assert len(done) == 5
    assert np.array_equal(first[0].divergence, second[0].divergence)
    assert first[1] == second[1]


def test_a_damaged_one_is_made_anew_and_that_is_said(windows, cache):
    base, told = Random(), []
    with distributions(base, windows, "k"):
        pass
    path = cache / "k.zip"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with distributions(base, windows, "k", note=told.append) as kept:
        scores, _ = kept.score(base.logits(windows), "itself")
    assert abs(scores.divergence.mean()) < 1e-6
    assert base.runs == 3
    assert "damaged" in told[0]
    assert "made anew" in told[0]


def test_nothing_is_kept_of_a_run_that_fails(windows, cache):
    class Broken(Random):
        def logits(self, windows):
            for number, logits in enumerate(super().logits(windows)):
                if number == 3:
                    raise WeightError("x gives logits that are NaN")
                yield logits

    with pytest.raises(WeightError, match="NaN"), distributions(Broken(), windows, "k"):
        pass
    assert list(cache.iterdir()) == []


def test_where_nothing_can_be_kept_it_is_computed_for_the_run(windows, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QCONVERT_CACHE", str(tmp_path / "file"))
    told = []
    with distributions(Random(), windows, "k", note=told.append) as kept:
        scores, _ = kept.score(Random().logits(windows), "itself")
        path = kept.archive.path
    assert abs(scores.divergence.mean()) < 1e-6
    assert "for this run alone" in told[0]
    assert not path.exists()


def test_other_vocabularies_and_numbers_are_refused(windows):
    class Bad(Random):
        def logits(self, windows):
            for logits in super().logits(windows):
                logits[0, 0] = np.nan
                yield logits

    with distributions(Random(), windows, "k") as kept:
        with pytest.raises(CheckpointError, match=r"y\.gguf gives 2999 logits"):
            kept.score(Random(vocabulary=2999).logits(windows), "y.gguf")
        with pytest.raises(WeightError, match=r"y\.gguf"):
            kept.score(Bad().logits(windows), "y.gguf")


def test_the_exact_form_needs_hidden_states(windows):
    runtime = LogitsOnly(Random())
    with (
        pytest.raises(UsageError, match="hidden states"),
        distributions(runtime, windows, "k", exact=True),
    ):
        pass
    with distributions(runtime, windows, "k"):
        pass


def test_the_key_knows_all_that_the_logits_depend_on(windows):
    other = make_windows(windows.tokens[:4], "text.txt")
    renamed = make_windows(windows.tokens, "copy.txt")
    first = key_of("f", windows, Random(), "f32 cpu", False)
    keys = {
        first,
        key_of("g", windows, Random(), "f32 cpu", False),
        key_of("f", other, Random(), "f32 cpu", False),
        key_of("f", windows, LogitsOnly(Random()), "f32 cpu", False),
        key_of("f", windows, Random(), "bf16 cpu", False),
        key_of("f", windows, Random(), "f32 cpu", True),
    }
    assert len(keys) == 6
    assert key_of("f", renamed, Random(), "f32 cpu", False) == first
