"""The reference's distributions: computed once, kept, and compared with a file's logits.

Two forms are kept: the compact one (see `qconvert.evaluation.divergence.compact`), whose mean
divergences have a stated error, and the exact one: the hidden states that go into the output
projection, which makes the very same logits of them again. The second takes 4 bytes for each
channel and scored token, and the reference's projection has to be at hand.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np

from qconvert import __version__
from qconvert.errors import UsageError
from qconvert.evaluation.divergence import compact
from qconvert.evaluation.divergence.reference_file import (
    Archive,
    open_archive,
    writable_folder,
    write_archive,
)
from qconvert.evaluation.divergence.scores import (
    assemble,
    check_finite,
    check_scores,
    check_shape,
    divergences,
    log_sums,
    losses,
    tops,
)
from qconvert.evaluation.divergence.types import Runtime, TokenScores
from qconvert.text.types import Windows

VERSION = 2
"""Of what is kept and of how it is computed."""

Project = Callable[[np.ndarray], np.ndarray]


class Splits(Protocol):
    """A runtime whose logits can be made of hidden states; see `TorchRuntime`."""

    def hidden(self, windows: Windows) -> Iterator[np.ndarray]: ...
    def project(self, hidden: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Distributions:
    """A reference at hand.

    Attributes:
        windows: the text.
        archive: the file that keeps them.
        project: makes logits of hidden states; None where the file is compact.
    """

    windows: Windows
    archive: Archive
    project: Project | None

    @property
    def exact(self) -> bool:
        return self.project is not None

    @cached_property
    def loss(self) -> np.ndarray:
        """float64 [windows, scored of a window], of the true tokens."""
        return np.stack([self.archive.read(i, "loss") for i in range(len(self.windows.tokens))])

    def score(
        self,
        logits: Iterable[np.ndarray],
        name: str,
        done: Callable[[int], None] = lambda windows: None,
    ) -> tuple[TokenScores, float]:
        """Compare a file with the reference.

        Args:
            logits: of the file, float32 [scored of a window, vocabulary] for each window in order.
            name: of the file, for messages.
            done: is told how many windows are.

        Returns:
            The scores, and the bound of their mean divergence.

        Raises:
            CheckpointError: the logits are over other tokens than the reference's.
            WeightError: they are NaN or infinite.
            OutputError: what is kept has been damaged since it was opened.
        """
        loss, same = [], []
        exact: list[np.ndarray] = []
        estimates: list[compact.Estimate] = []
        shape = (self.windows.targets.shape[1], int(self.archive.about["vocabulary"]))
        for number, own in enumerate(logits):
            check_shape(own, shape, name)
            sums = log_sums(own)
            loss.append(losses(own, sums, self.windows.targets[number]))
            same.append(tops(own) == self.archive.read(number, "top"))
            if self.project is not None:
                base = self.project(self.archive.read(number, "hidden"))
                exact.append(divergences(base, own))
            else:
                estimates.append(compact.compare(self._kept(number), own, sums))
            done(number + 1)
        if self.exact:
            divergence, bound = np.stack(exact), 0.0
        else:
            divergence, bound = compact.conclude(estimates)
        scores = assemble(loss, divergence, same, self.loss)
        check_scores(scores, name)
        return scores, bound

    def _kept(self, number: int) -> compact.CompactWindow:
        names = [field.name for field in fields(compact.CompactWindow)]
        return compact.CompactWindow(*(self.archive.read(number, name) for name in names))


def key_of(fingerprint: str, windows: Windows, runtime: Runtime, dtype: str, exact: bool) -> str:
    """What a kept reference belongs to, as a hexadecimal digest.

    Args:
        fingerprint: of the model.
        dtype: what the runtime computes in, and where.
        exact: the form.
    """
    about = (fingerprint, windows.digest, windows.first, runtime.backend, dtype)
    text = json.dumps([VERSION, __version__, "exact" if exact else "compact", *about])
    return sha256(text.encode()).hexdigest()


@contextmanager
def distributions(
    runtime: Runtime,
    windows: Windows,
    key: str,
    *,
    exact: bool = False,
    note: Callable[[str], None] = lambda message: None,
    done: Callable[[int], None] = lambda windows: None,
) -> Iterator[Distributions]:
    """The reference's distributions, from the cache or computed now.

    Args:
        runtime: computes its logits.
        windows: the text.
        key: of `key_of`.
        exact: keep hidden states.
        note: is told of a damaged file, and of where and how large the new one is.
        done: is told how many windows are computed.

    Raises:
        UsageError: this runtime gives no hidden states, which the exact form needs.
        WeightError: the reference gives logits that are NaN or infinite.
        OutputError: the disk is full.
        QconvertError: the model cannot be run.
    """
    project = _splits(runtime).project if exact else None
    with writable_folder() as (folder, why):
        path = folder / f"{key}.zip"
        archive = _open(path, key, note)
        if archive is None:
            _compute(runtime, windows, path, key, exact, done)
            size = f"{path.stat().st_size / 1e6:.1f} MB"
            note(
                f"{why}; the reference is kept for this run alone ({size})"
                if why
                else f"the reference is kept for later runs: {path} ({size})"
            )
            archive = _open(path, key, note)
        assert archive is not None
        try:
            yield Distributions(windows, archive, project)
        finally:
            archive.close()


def _open(path: Path, key: str, note: Callable[[str], None]) -> Archive | None:
    try:
        return open_archive(path, key)
    except ValueError as error:
        note(f"the kept reference {path} is damaged ({error}), and made anew")
        return None


def _compute(
    runtime: Runtime,
    windows: Windows,
    path: Path,
    key: str,
    exact: bool,
    done: Callable[[int], None],
) -> None:
    """Run the reference over all windows, and write what is kept of each."""
    about = {"key": key, "version": __version__, "data": windows.data, "exact": exact}
    found = _exact(_splits(runtime), windows) if exact else _compact(runtime, windows)
    first = next(found)

    def arrays() -> Iterator[dict[str, np.ndarray]]:
        done(1)
        yield first[1]
        for number, (_, window) in enumerate(found, 2):
            done(number)
            yield window

    write_archive(path, about | {"vocabulary": first[0]}, arrays())


def _compact(runtime: Runtime, windows: Windows) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    share = None
    for number, logits in enumerate(runtime.logits(windows)):
        if share is None:
            share = compact.choose_share(logits, windows.scored)
        rng = np.random.default_rng([number, int(windows.digest[:8], 16)])
        one = compact.condense(logits, windows.targets[number], share, rng)
        yield logits.shape[1], {field.name: getattr(one, field.name) for field in fields(one)}


def _exact(runtime: Splits, windows: Windows) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    for number, hidden in enumerate(runtime.hidden(windows)):
        logits = runtime.project(hidden)
        check_finite(logits, "the reference", number)
        loss = losses(logits, log_sums(logits), windows.targets[number])
        yield logits.shape[1], {"hidden": hidden, "loss": loss, "top": tops(logits)}


def _splits(runtime: Runtime) -> Splits:
    if not (hasattr(runtime, "hidden") and hasattr(runtime, "project")):
        raise UsageError(
            f"the exact form needs hidden states, which {runtime.backend} does not give",
            "leave --exact out, or use --backend torch",
        )
    return runtime  # type: ignore[return-value]
