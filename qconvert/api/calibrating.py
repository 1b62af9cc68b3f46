"""What a model's layers see of a text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qconvert.api.types import SILENT, TOKENS, WINDOW, Where, opened
from qconvert.errors import QconvertError, UsageError
from qconvert.machine.watcher import ANEW, KEPT, Watcher

if TYPE_CHECKING:
    from qconvert.calibration.capture import Captured
    from qconvert.checkpoint import Checkpoint
    from qconvert.plan.recipe import Recipe
    from qconvert.run.crew import Crew
    from qconvert.run.types import Run
    from qconvert.text.types import Sample


def calibrate(
    model: Where,
    output: Where | None = None,
    *,
    data: Where | Sequence[Where] = (),
    tokens: int = TOKENS,
    window: int = WINDOW,
    seed: int = 0,
    adapter: Where | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    executor: str = "threads",
    workers: int | None = None,
    address: str | None = None,
    watcher: Watcher = SILENT,
) -> "Captured":
    """Run a model over a sample of text, and write what its layers saw.

    Args:
        output: the file; by default NAME.calib.safetensors in this folder.
        data: a text, or several, as the command takes them; without one the model writes its own.

    Raises:
        UsageError, CheckpointError, HubError: the text cannot be had, or is too short.
        UnsupportedError: the model cannot be run here.
        OutputError: the file cannot be written.
    """
    from qconvert.containers.place import check_output
    from qconvert.forward.device import choose_device, choose_dtype
    from qconvert.plan.recipe import calibration_path
    from qconvert.run.crew import crew_of

    crew = crew_of(executor, threads, workers, address)
    if output is not None:
        check_output(Path(output))
    place = choose_device(crew.device(device))
    choose_dtype(dtype, place)
    checkpoint = opened(model, watcher, adapter)
    path = calibration_path(checkpoint.source) if output is None else Path(output)
    if path.resolve() in {file.resolve() for file in checkpoint.files}:
        raise UsageError(f"{path} is the source itself", "name another file with -o")
    wanted = Wanted(texts(data), tokens, window, seed, place, dtype)
    return _run(checkpoint, path, _draw(checkpoint, path, wanted, watcher), wanted, crew, watcher)


def texts(data: Where | Sequence[Where]) -> tuple[str, ...]:
    return (str(data),) if isinstance(data, str | Path) else tuple(map(str, data))


@dataclass(frozen=True)
class Wanted:
    """A sample that is asked for, and how a model is run over it.

    Attributes:
        data: as `qconvert.text.sources` describes; nothing stands for "self".
    """

    data: tuple[str, ...]
    tokens: int
    window: int
    seed: int = 0
    device: str = "cpu"
    dtype: str = "auto"

    @property
    def is_written(self) -> bool:
        """Whether the model writes all of it, which takes long."""
        return set(self.data or ["self"]) == {"self"}


def _draw(checkpoint: "Checkpoint", path: Path, wanted: Wanted, watcher: Watcher) -> "Sample":
    """The sample for the calibration at a path.

    Raises:
        KeyboardInterrupt: which says what the same command does then.
    """
    from qconvert.calibration.work import keep_sample
    from qconvert.text.sample import draw_sample

    def drawn(kept: Path | None = None) -> "Sample":
        return draw_sample(
            wanted.data,
            checkpoint,
            tokens=wanted.tokens,
            window=wanted.window,
            seed=wanted.seed,
            watcher=watcher,
            device="cpu" if wanted.device == "mps" else wanted.device,
            kept=kept,
        )

    about = (wanted.tokens, wanted.window, wanted.seed, wanted.device)
    try:
        return keep_sample(checkpoint, path, about, drawn) if wanted.is_written else drawn()
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(KEPT if wanted.is_written else ANEW) from interruption


def _run(
    checkpoint: "Checkpoint",
    path: Path,
    sample: "Sample",
    wanted: Wanted,
    crew: "Crew",
    watcher: Watcher,
) -> "Captured":
    """Run the model over a sample, and write the calibration."""
    from qconvert.calibration.capture import capture, visit_here
    from qconvert.run.visiting import visits_over

    with crew.at_work(watcher) as workers:
        return capture(
            checkpoint,
            sample,
            path,
            device=wanted.device,
            dtype=wanted.dtype,
            threads=crew.cores,
            visits=visit_here if isinstance(workers, int) else visits_over(workers, crew.cores),
            watcher=watcher,
        )


def with_calibration(
    checkpoint: "Checkpoint",
    asked: tuple["Recipe", ...],
    data: tuple[str, ...],
    crew: "Crew",
    run: "Run",
) -> tuple["Recipe", ...]:
    """The outputs with a calibration that is beside the first of them, and made if it is not."""
    from qconvert.plan.recipe import calibration_path

    if any(one.calibration for one in asked):
        raise UsageError("-c names a calibration, and --calibrate makes one", "give one of them")
    place = asked[0].path(checkpoint.source).parent
    path = calibration_path(checkpoint.source, place)
    if run.dry and not path.exists():
        run.watcher.note(
            f"would calibrate first: {path}; types may need it, and it may change some"
        )
        return asked
    if not run.dry:
        _ensure(checkpoint, path, data, crew, run)
    return tuple(replace(one, calibration=path) for one in asked)


def _ensure(
    checkpoint: "Checkpoint", path: Path, data: tuple[str, ...], crew: "Crew", run: "Run"
) -> None:
    """Have a calibration at a path: the one that is there, if it is of this model and sample."""
    import numpy as np

    from qconvert.containers.place import check_place
    from qconvert.forward.device import choose_device
    from qconvert.model.open import open_model
    from qconvert.text.sample import WRITTEN

    place = choose_device(run.device)
    check_place(path)
    longest = open_model(checkpoint).config.get("max_position_embeddings")
    window = min(WINDOW, longest) if isinstance(longest, int) else WINDOW
    wanted = Wanted(data, TOKENS, window, device=place)
    found = _found(checkpoint, path)
    is_there = found is not None and wanted.is_written and found.source == WRITTEN
    if not is_there:
        sample = _draw(checkpoint, path, wanted, run.watcher)
        is_there = found is not None and np.array_equal(found.tokens, sample.tokens)
    if not is_there:
        _run(checkpoint, path, sample, wanted, crew, run.watcher)
    else:
        run.watcher.note(f"up to date: {path}")


def _found(checkpoint: "Checkpoint", path: Path) -> "Sample | None":
    """The sample of a calibration of this model that is there."""
    from qconvert.calibration.file import check_calibration, read_calibration

    try:
        found = read_calibration(path)
        check_calibration(found, checkpoint)
    except QconvertError:
        return None
    return found.sample
