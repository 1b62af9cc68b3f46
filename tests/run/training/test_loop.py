"""The loop learns, goes on where it stopped, and keeps what was best."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from qconvert.containers.store import open_store
from qconvert.errors import WeightError
from qconvert.machine.watcher import Silent
from qconvert.run.training.loop import train
from qconvert.run.training.schedule import Schedule

SCHEDULE = Schedule(windows=12, batch=3, steps=40, seed=5)


@dataclass
class Line:
    """Learns a plane from noisy points, a point for each window."""

    stop: int | None = None
    bad: tuple[int, ...] = ()
    rate: float = 0.2
    tokens: int = 1
    seen: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.x = torch.randn(16, 3, generator=draw)
        noise = 0.05 * torch.randn(16, generator=draw)
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5]) + noise
        self.parameters = {"slope": torch.zeros(3, requires_grad=True)}
        self.rates = {"slope": self.rate}

    def _loss(self, windows: np.ndarray) -> torch.Tensor:
        return (self.x[windows] @ self.parameters["slope"] - self.y[windows]).square().mean()

    def learn(self, windows: np.ndarray) -> float:
        if self.stop is not None and len(self.seen) == self.stop:
            raise KeyboardInterrupt
        self.seen.append(windows)
        loss = self._loss(windows)
        loss.backward()
        return float("nan") if len(self.seen) in self.bad else float(loss.detach())

    def judge(self) -> float:
        return float(self._loss(np.arange(12, 16)).detach())


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def trained(folder, line: Line, watcher=None, schedule=SCHEDULE):
    with open_store(folder / "out", "this") as store:
        outcome = train(line, schedule, store, watcher or Silent())
    return outcome, line.parameters["slope"].detach().clone()


def test_it_learns_and_keeps_what_was_best(tmp_path):
    line = Line()
    outcome, _ = trained(tmp_path, line)
    assert outcome.after < 0.2 * outcome.before
    assert outcome.after == min(found for _, found in outcome.history)
    assert line.judge() == outcome.after


@pytest.mark.parametrize("stop", [0, 1, 7, 33])
def test_an_interrupted_training_comes_to_the_same_end(tmp_path, stop):
    whole = trained(tmp_path / "a" if (tmp_path / "a").mkdir() is None else tmp_path, Line())
    (tmp_path / "b").mkdir()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "b", Line(stop=stop))
    line = Line()
    again = trained(tmp_path / "b", line)
    assert again[0] == whole[0]
    assert torch.equal(again[1], whole[1])
    assert len(line.seen) <= 40 - stop // 4 * 3  # what was done is not done again


def test_states_between_looks_are_kept_too(tmp_path, monkeypatch):
    monkeypatch.setattr("qconvert.run.training.loop.EVERY", 0.0)
    whole = trained(tmp_path, Line())
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "..", Line(stop=8))
    line = Line()
    assert trained(tmp_path / "..", line)[0] == whole[0]
    assert len(line.seen) == 32


def test_where_the_loss_is_no_number_it_goes_back_and_slower(tmp_path):
    watcher = Notes()
    line = Line(bad=(6,))
    outcome, _ = trained(tmp_path, line, watcher)
    assert outcome.halved == 1
    assert outcome.after < 0.5 * outcome.before
    assert any("back to the last look, at half the rate" in note for note in watcher.notes)
    np.testing.assert_array_equal(line.seen[6], line.seen[3])  # behind the look after step 3


def test_a_loss_that_stays_no_number_is_an_error(tmp_path):
    with pytest.raises(WeightError, match="whatever the rate"):
        trained(tmp_path, Line(bad=tuple(range(4, 99))))


def test_what_does_not_help_is_not_kept(tmp_path):
    line = Line(rate=-0.2)  # away from it
    outcome, slope = trained(tmp_path, line)
    assert outcome.step == 0
    assert outcome.after == outcome.before
    assert not slope.any()


def test_every_window_comes_once_in_each_round():
    chosen = np.concatenate([SCHEDULE.chosen(step) for step in range(40)])
    for start in range(0, 120, 12):
        assert sorted(chosen[start : start + 12]) == list(range(12))
    assert (chosen[:12] != chosen[12:24]).any()


def test_the_rate_rises_and_falls():
    rates = [SCHEDULE.rate(step) for step in range(40)]
    assert rates[0] < rates[1] < rates[2] == max(rates) == 1
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] < 0.01
    assert SCHEDULE.looks(40)
