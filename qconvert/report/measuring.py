"""What a report asks of each file, measured or found where an earlier run kept it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from qconvert import __version__
from qconvert.checkpoint import Checkpoint
from qconvert.errors import QconvertError
from qconvert.evaluation.answers.answer import Answer as Said
from qconvert.evaluation.answers.answer import AnswerSettings, Responses, Told, answers
from qconvert.evaluation.divergence.types import Divergence, FileScores, TokenScores
from qconvert.evaluation.runtimes.subject import open_subject
from qconvert.evaluation.sensitivity.measure import Cost, Sensitivity, measure_sensitivity
from qconvert.evaluation.speed.measure import Figure, Speed, describe_speed, measure_speed
from qconvert.forward.walk import Place
from qconvert.report.records import Keep
from qconvert.text.perplexity_windows import make_windows, read_windows
from qconvert.text.prompts import Prompt
from qconvert.text.types import Windows

FEW_WINDOWS, SHORT = 4, 128
"""Sensitivity is measured on so many windows of at most so many tokens."""

MOMENTS = ("loss", "divergence", "same_top", "delta_p")


@dataclass(frozen=True)
class Measured:
    """A file that is measured.

    Attributes:
        path: where it is.
        digest: tells its contents from others'.
    """

    path: Path
    digest: str


@dataclass(frozen=True)
class Scored:
    """A file's scores, and the perplexity of what it was compared with."""

    scores: FileScores
    reference_perplexity: float


def find_windows(
    keep: Keep,
    reference: Checkpoint,
    fingerprint: str,
    data: str,
    tokens: int | None,
    window: int,
    note: Callable[[str], None],
) -> Windows:
    """The text's windows; those that a model has written itself are kept.

    Raises:
        QconvertError: see `read_windows`.
    """
    if data != "self":
        return read_windows(reference, data, tokens, window, note=note)
    about = (fingerprint, tokens, window, __version__)
    found, arrays = keep.find("text", about), keep.find_arrays("text", about)
    if found is not None and arrays is not None:
        return make_windows(arrays["tokens"], found["data"])
    windows = read_windows(reference, data, tokens, window, note=note)
    keep.put("text", about, {"data": windows.data}, {"tokens": windows.tokens})
    return windows


def find_scores(
    keep: Keep, file: Measured, about: Sequence[object], measure: Callable[[], Scored]
) -> Scored:
    """A file's scores.

    Args:
        about: all else that they depend on.
        measure: makes them.
    """
    key = (file.digest, *about, __version__)
    data, arrays = keep.find("scores", key), keep.find_arrays("scores", key)
    if data is not None and arrays is not None:
        return _scored(data, arrays, file.path)
    scored = measure()
    moments = {name: getattr(scored.scores.tokens, name) for name in MOMENTS}
    scores = asdict(replace(scored.scores, path=Path(), tokens=_NOTHING))
    del scores["path"], scores["tokens"]
    data = {"scores": scores, "reference_perplexity": scored.reference_perplexity}
    keep.put("scores", key, data, moments)
    return scored


_NOTHING = TokenScores(*[np.empty((0, 0))] * 4)


def _scored(data: Any, arrays: dict[str, np.ndarray], path: Path) -> Scored:
    scores = dict(data["scores"])
    scores["divergence"] = Divergence(**scores["divergence"])
    scores["notices"] = tuple(scores["notices"])
    tokens = TokenScores(**{name: arrays[name] for name in MOMENTS})
    return Scored(FileScores(path=path, tokens=tokens, **scores), data["reference_perplexity"])


def find_speed(
    keep: Keep,
    file: Measured,
    machine: str,
    threads: int,
    note: Callable[[str], None],
    heard: Callable[[str], None] = lambda step: None,
) -> Speed:
    """A file's speed.

    Args:
        machine: where and by what it is measured; speeds of another are none.
        note: is told when it is measured now.
        heard: is told of each step of that.

    Raises:
        QconvertError: see `measure_speed`.
    """
    key = (file.digest, machine, threads, __version__)
    data = keep.find("speed", key)
    if data is not None:
        return _speed(data, file.path)
    note(f"measuring the speed of {file.path.name}")
    speed = measure_speed(file.path, threads=threads, heard=heard)
    keep.put("speed", key, describe_speed(speed))
    return speed


def _speed(data: dict[str, Any], path: Path) -> Speed:
    values: dict[str, Any] = {
        name: Figure(**value) if isinstance(value, dict) else value for name, value in data.items()
    }
    return Speed(path=path, **values)


def find_answers(
    keep: Keep,
    file: Measured,
    prompts: Sequence[Prompt],
    settings: AnswerSettings,
    note: Callable[[str], None],
    told: Told = lambda tokens, path: None,
    at: AbstractContextManager[Path] | None = None,
) -> Responses:
    """A file's greedy answers; where it cannot answer, what kept it from that.

    Args:
        at: what makes it first, where it is not there as a runtime loads it.

    The number of threads may change a sum's last bit, and is what answers depend on too.
    """
    asked = [[message.as_data() for message in prompt.messages] for prompt in prompts]
    key = (file.digest, asked, settings, __version__)
    data = keep.find("answers", key)
    if data is not None:
        greedy = tuple(
            Said(one["text"], tuple(one["tokens"]), one["ended"]) for one in data["greedy"]
        )
        return Responses(**{**data, "path": str(file.path), "greedy": greedy, "sampled": ()})
    note(f"asking {file.path.name}")
    try:
        with at or nullcontext(file.path) as path:
            (found,) = answers([path], prompts, settings, told=told)
    except QconvertError as error:
        return Responses(str(file.path), "", 0, 0.0, "transformers", problem=error.message)
    keep.put("answers", key, asdict(found))
    return replace(found, path=str(file.path))


def find_sensitivity(
    keep: Keep,
    reference: Checkpoint,
    fingerprint: str,
    file: Measured,
    windows: Windows,
    threads: int,
    device: str,
    note: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """What each part of a file costs, over a small piece of the text.

    Raises:
        QconvertError: see `measure_sensitivity`.
    """
    piece = make_windows(windows.tokens[:FEW_WINDOWS, :SHORT], windows.data)
    key = (fingerprint, file.digest, piece.digest, __version__)
    data = keep.find("sensitivity", key)
    if data is not None:
        rows = tuple(Cost(**one) for one in data["rows"])
        return Sensitivity(**{**data, "rows": rows, "notices": tuple(data["notices"])})
    note(f"measuring which parts of {file.path.name} cost most")
    checkpoint = open_subject(str(file.path), "torch").checkpoint
    assert checkpoint is not None
    with TemporaryDirectory(prefix="qconvert-") as folder:
        place = Place(Path(folder), device, threads=threads)
        found = measure_sensitivity(reference, checkpoint, piece, place, progress=progress)
    keep.put("sensitivity", key, asdict(found))
    return found
