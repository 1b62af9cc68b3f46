"""The training loop of all commands that change weights.

    for each step:
        derive the loss of some windows, in pieces that memory holds
        move what is trained against it                  (AdamW, at the schedule's rate)
        now and then look at windows that are not shown  and keep what was best there

Every look, and every few minutes, all that the next step depends on goes to the disk: a run that
was interrupted goes on there, and comes to the same end. Where the loss is no number any more, the
state of the last look comes back, and the rate is halved.

Source: I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", arXiv 1711.05101.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from qconvert.containers.store import Store
from qconvert.errors import WeightError
from qconvert.machine.watcher import Watcher
from qconvert.run.training.schedule import Schedule

EVERY = 180.0
"""Seconds between two states on the disk."""

HALVED = 5
"""So often the rate is halved before a training counts as hopeless."""

BETAS = (0.9, 0.99)

NOW, LOOKED, BEST = "now", "looked", "best"
"""The store's entries: the newest state, that of the last look, and what was best."""


class Trainee(Protocol):
    """Who is trained.

    Attributes:
        parameters: what is trained, by name: tensors that want a gradient.
        rates: the highest rate of each.
        tokens: of a window.
    """

    @property
    def parameters(self) -> Mapping[str, Any]: ...
    @property
    def rates(self) -> Mapping[str, float]: ...
    @property
    def tokens(self) -> int: ...

    def learn(self, windows: np.ndarray) -> float:
        """The mean loss of some windows; its gradients are added to the parameters'."""

    def judge(self) -> float:
        """The mean divergence on windows that are not shown, in nats a token."""


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes:
        before, after: the divergence on windows that were not shown, in nats a token: at the
            beginning, and of what is kept.
        step: after which what is kept was best; 0 where nothing helped.
        history: (step, divergence) of every look.
        halved: how often the rate was.
    """

    before: float
    after: float
    step: int
    history: tuple[tuple[int, float], ...]
    halved: int

    @property
    def data(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "divergence_before": self.before,
            "divergence_after": self.after,
            "best_step": self.step,
            "looks": [{"step": step, "divergence": found} for step, found in self.history],
            "halved_rates": self.halved,
        }

    @property
    def words(self) -> str:
        """What came of it, for people."""
        if not self.step:
            return (
                f"training did not help on windows that were not shown (divergence "
                f"{self.before:.4f}): what it changed is not kept"
            )
        share = self.after / self.before if self.before else 1.0
        return (
            f"on windows that were not shown the divergence went from {self.before:.4f} to "
            f"{self.after:.4f}, x{share:.2f}, best after step {self.step}"
        )


@dataclass
class _State:
    """All that the next step depends on but the parameters and their moments."""

    step: int = 0
    halved: int = 0
    best: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)


def train(trainee: Trainee, schedule: Schedule, store: Store, watcher: Watcher) -> Outcome:
    """Train to the end; the parameters are then those that were best.

    Args:
        store: of an identity that says all that is trained, by what, and how.
        watcher: told of tokens.

    Raises:
        WeightError: the loss is no number, whatever the rate.
        OutputError: no room for a state.
    """
    import torch

    parameters, rates = dict(trainee.parameters), dict(trainee.rates)
    groups = [{"params": [p], "lr": rates[name]} for name, p in parameters.items()]
    optimizer = torch.optim.AdamW(groups, betas=BETAS, weight_decay=0.0, foreach=False)
    state = _State()
    if NOW in store:
        state = _load(store, NOW, parameters, optimizer)
    size = schedule.batch * trainee.tokens
    watcher.begin(schedule.steps * size, state.step * size)
    if not state.history:
        _look(trainee, state, parameters, optimizer, store, watcher)
    saved = time.monotonic()
    while state.step < schedule.steps:
        optimizer.zero_grad(set_to_none=True)
        loss = trainee.learn(schedule.chosen(state.step))
        if not math.isfinite(loss):
            state = _step_back(state, parameters, optimizer, store, watcher)
            continue
        factor = schedule.rate(state.step) * 0.5**state.halved
        for group, name in zip(optimizer.param_groups, parameters, strict=True):
            group["lr"] = rates[name] * factor
        optimizer.step()
        state.step += 1
        watcher.advance(size, f"step {state.step} of {schedule.steps}, loss {loss:.4f}")
        if schedule.looks(state.step):
            _look(trainee, state, parameters, optimizer, store, watcher)
            saved = time.monotonic()
        elif time.monotonic() - saved > EVERY:
            _save(store, NOW, state, parameters, optimizer)
            saved = time.monotonic()
    _put_back(store.get(BEST), parameters)
    found = dict(state.history)
    before, after = found[0], found[state.best]
    return Outcome(before, after, state.best, tuple(state.history), state.halved)


def _look(
    trainee: Trainee,
    state: _State,
    parameters: Mapping[str, Any],
    optimizer: Any,
    store: Store,
    watcher: Watcher,
) -> None:
    """Measure, and keep the parameters where they are the best so far."""
    found = trainee.judge()
    known = dict(state.history)
    state.history.append((state.step, found))
    if not known or found < known[state.best]:
        state.best = state.step
        store.put(BEST, {name: _array(p) for name, p in parameters.items()})
    watcher.note(f"step {state.step}: divergence {found:.4f} on windows that are not shown")
    for entry in (LOOKED, NOW):
        _save(store, entry, state, parameters, optimizer)


def _step_back(
    state: _State, parameters: Mapping[str, Any], optimizer: Any, store: Store, watcher: Watcher
) -> _State:
    """The state of the last look, at half the rate."""
    halved = state.halved + 1
    if halved > HALVED:
        raise WeightError(
            "the loss is NaN or infinite, whatever the rate",
            "the weights may be damaged; else --dtype f32 may help",
        )
    watcher.note(
        f"step {state.step + 1}: the loss is NaN or infinite; "
        "back to the last look, at half the rate"
    )
    state = _load(store, LOOKED, parameters, optimizer)
    state.halved = halved
    _save(store, NOW, state, parameters, optimizer)
    return state


def _save(
    store: Store, entry: str, state: _State, parameters: Mapping[str, Any], optimizer: Any
) -> None:
    arrays = {
        "numbers": np.array([state.step, state.halved, state.best], np.int64),
        "history": np.array(state.history, np.float64).reshape(-1, 2),
    }
    for name, parameter in parameters.items():
        arrays[f"{name} x"] = _array(parameter)
        for key, value in optimizer.state.get(parameter, {}).items():
            arrays[f"{name} {key}"] = _array(value).reshape(-1)
    store.put(entry, arrays)


def _load(store: Store, entry: str, parameters: Mapping[str, Any], optimizer: Any) -> _State:
    import torch

    arrays = store.get(entry)
    _put_back({name: arrays[f"{name} x"] for name in parameters}, parameters)
    optimizer.state.clear()
    for name, parameter in parameters.items():
        if f"{name} step" not in arrays:
            continue
        moments = {
            key: torch.tensor(arrays[f"{name} {key}"]).to(parameter).view_as(parameter)
            for key in ("exp_avg", "exp_avg_sq")
        }
        count = torch.tensor(arrays[f"{name} step"]).reshape(())
        optimizer.state[parameter] = {"step": count, **moments}
    step, halved, best = arrays["numbers"].tolist()
    history = [(int(at), float(found)) for at, found in arrays["history"]]
    return _State(step, halved, best, history)


def _put_back(arrays: Mapping[str, np.ndarray], parameters: Mapping[str, Any]) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.tensor(arrays[name]))


def _array(tensor: Any) -> np.ndarray:
    found: np.ndarray = tensor.detach().float().cpu().contiguous().numpy()
    return found
