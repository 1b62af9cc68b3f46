"""Files against their original, one after the other.

    evaluation = evaluate("./model", "text.txt", ["model-q4_k_m.gguf", "model-w8a8"])

Everything is opened and checked before anything is computed. Of each model no more is in memory
than its runtime needs, and of all logits those of one window.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from qconvert.checkpoint import Checkpoint
from qconvert.checkpoint.open import check_unchanged
from qconvert.errors import QconvertError, UsageError
from qconvert.evaluation.divergence import bootstrap
from qconvert.evaluation.divergence.reference import Distributions, distributions, key_of
from qconvert.evaluation.divergence.reference_file import cache_folder
from qconvert.evaluation.divergence.summary import perplexity_of, summarize
from qconvert.evaluation.divergence.types import Evaluation, FileScores, Runtime, Subject
from qconvert.evaluation.runtimes.settings import DEFAULT, Settings
from qconvert.evaluation.runtimes.subject import (
    BackendName,
    Reference,
    open_reference,
    open_subject,
)
from qconvert.evaluation.runtimes.tokenizer_check import tokenizer_check
from qconvert.forward.device import choose_device
from qconvert.machine.watcher import Silent, Watcher
from qconvert.text.perplexity_windows import read_windows
from qconvert.text.types import Windows

BLOCKS = 0.8
"""Share of the time that a model run block by block spends before its first logits."""


@dataclass(frozen=True)
class Choices:
    """What the user may choose.

    Attributes:
        tokens: of the text, from its beginning; None takes all.
        window: tokens of each window.
        backend: of the files, and of the reference where it can have it.
        exact: keep the reference in its exact form.
        adapter: PEFT's, merged into the reference.
        seed: of the bootstrap.
        settings: where and how models are run.
    """

    tokens: int | None = None
    window: int = 512
    backend: BackendName = "auto"
    exact: bool = False
    adapter: Path | None = None
    seed: int = 0
    settings: Settings = DEFAULT


USUAL = Choices()


@dataclass
class Meter:
    """Tells a watcher how many tokens are done, for models whose work comes in two parts: blocks,
    then logits."""

    watcher: Watcher
    windows: int
    tokens: int
    name: str = ""
    _done: int = 0
    _blocks: float = 0.0

    def start(self, name: str) -> None:
        """The next model."""
        self.name, self._done, self._blocks = name, 0, 0.0

    def block(self, done: int, blocks: int) -> None:
        """So many blocks have seen all windows."""
        self._blocks = BLOCKS * done / max(blocks, 1)
        self._reach(self._blocks)

    def window(self, done: int) -> None:
        """The logits of so many windows are there."""
        self._reach(self._blocks + (1 - self._blocks) * done / self.windows)

    def _reach(self, share: float) -> None:
        now = round(share * self.tokens)
        if now > self._done:
            self.watcher.advance(now - self._done, self.name)
            self._done = now


@dataclass
class _Progress:
    """Stands in for a meter until the number of windows is known."""

    meter: Meter | None = None

    def block(self, done: int, blocks: int) -> None:
        if self.meter is not None:
            self.meter.block(done, blocks)


@dataclass(frozen=True)
class _Opened:
    """All that is evaluated, with nothing computed yet."""

    reference: Reference
    subjects: tuple[Subject, ...]
    windows: Windows
    progress: _Progress = field(default_factory=_Progress)


def evaluate(
    reference: str,
    data: str | Windows,
    files: Sequence[str | Path],
    choices: Choices = USUAL,
    watcher: Watcher | None = None,
) -> Evaluation:
    """Perplexity, and divergence from the original, of each file.

    Args:
        reference: the original: a directory, a hub id or a GGUF file.
        data: a text, see `read_windows`, or its windows, in place of `choices.tokens` and
            `choices.window`.
        files: GGUF files, directories or hub ids.
        choices: of the user.
        watcher: is told of progress in tokens, and what the user should know.

    Raises:
        UsageError: the choices do not fit.
        CheckpointError: a file or the text cannot be read, the text is too short, or a file has
            another tokenizer; the message names it.
        WeightError: a model's logits are NaN or infinite.
        OutputError: the disk is full.
    """
    watcher = watcher or Silent()
    opened = _open(reference, data, files, choices, watcher)
    key = _key(opened, choices)
    meter = _begin(opened, key, watcher)
    meter.start("the reference")
    with ExitStack() as stack:
        with _naming(reference):
            kept = distributions(
                opened.reference.runtime,
                opened.windows,
                key,
                exact=choices.exact,
                note=watcher.note,
                done=_watching(opened.reference.checkpoint, meter),
            )
            base = stack.enter_context(kept)
        if not choices.exact:
            _release(opened.reference.runtime)
        rows = tuple(_score(base, subject, meter) for subject in opened.subjects)
        loss = base.loss
    return Evaluation(
        reference=reference,
        reference_perplexity=perplexity_of(loss)[0],
        data=opened.windows.data,
        window=int(opened.windows.tokens.shape[1]),
        scored=opened.windows.scored,
        bound=max((row.divergence.bound for row in rows), default=0.0),
        files=rows,
        better=bootstrap.compare([row.tokens.divergence for row in rows], choices.seed),
    )


def _open(
    reference: str,
    data: str | Windows,
    files: Sequence[str | Path],
    choices: Choices,
    watcher: Watcher,
) -> _Opened:
    if not files:
        raise UsageError("there is no file to evaluate")
    progress = _Progress()
    settings = replace(choices.settings, progress=progress.block)
    with _naming(reference):
        base = _open_reference(reference, choices, settings)
    for notice in base.notices:
        watcher.note(f"{reference}: {notice}")
    subjects = [_open_file(str(file), choices.backend, settings) for file in files]
    windows = data if isinstance(data, Windows) else _read(base, data, choices, watcher)
    checked = []
    check = tokenizer_check(windows, base.checkpoint)
    for subject in subjects:
        assert subject.checkpoint is not None
        with _naming(str(subject.path)):
            more = check(subject.checkpoint)
        checked.append(replace(subject, notices=subject.notices + more))
    return _Opened(base, tuple(checked), windows, progress)


def _read(base: Reference, data: str, choices: Choices, watcher: Watcher) -> Windows:
    return read_windows(
        base.checkpoint,
        data,
        choices.tokens,
        choices.window,
        device=choose_device(choices.settings.device),
        note=watcher.note,
    )


def _open_reference(model: str, choices: Choices, settings: Settings) -> Reference:
    """With the files' backend where that runs such a model, so that a file evaluated against
    itself gives zero."""
    if choices.exact or choices.adapter:
        return open_reference(model, "torch", settings, choices.adapter)
    found = open_reference(model, "auto", settings)
    able = {"gguf": ("torch", "llama.cpp"), "huggingface": ("torch", "transformers")}
    if choices.backend in able[found.checkpoint.container]:
        return open_reference(model, choices.backend, settings)
    return found


def _open_file(path: str, backend: BackendName, settings: Settings) -> Subject:
    with _naming(path):
        return open_subject(path, backend, settings)


def _key(opened: _Opened, choices: Choices) -> str:
    settings, runtime = choices.settings, opened.reference.runtime
    place = f"{settings.exact_dtype} {choose_device(settings.device)}"
    fingerprint = opened.reference.fingerprint
    return key_of(fingerprint, opened.windows, runtime, place, choices.exact)


def _begin(opened: _Opened, key: str, watcher: Watcher) -> Meter:
    """Count all work; the reference's is none where it is kept."""
    tokens = int(opened.windows.tokens.size)
    meter = Meter(watcher, len(opened.windows.tokens), tokens)
    opened.progress.meter = meter
    kept = (cache_folder() / f"{key}.zip").exists()
    watcher.begin(tokens * (len(opened.subjects) + (not kept)), 0)
    return meter


def _score(base: Distributions, subject: Subject, meter: Meter) -> FileScores:
    meter.start(subject.path.name)
    with _naming(str(subject.path)):
        logits = subject.runtime.logits(base.windows)
        assert subject.checkpoint is not None
        done = _watching(subject.checkpoint, meter)
        scores, bound = base.score(logits, str(subject.path), done)
    _release(subject.runtime)
    return summarize(subject, scores, base.loss, bound)


def _watching(checkpoint: Checkpoint, meter: Meter) -> Callable[[int], None]:
    """What is told of windows that are done: none counts whose model changed on the way, whatever
    computes."""

    def done(windows: int) -> None:
        check_unchanged(checkpoint)
        meter.window(windows)

    return done


def _release(runtime: Runtime) -> None:
    """Forget weights that a runtime may hold for the next call."""
    release: Callable[[], None] | None = getattr(runtime, "release", None)
    if release is not None:
        release()


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Errors name the file that they are about."""
    try:
        yield
    except QconvertError as error:
        if Path(path).name in error.message:
            raise
        raise type(error)(f"{path}: {error.message}", error.hint) from error
