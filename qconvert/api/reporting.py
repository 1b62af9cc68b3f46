"""Several files of a model, measured, and the one to take."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from qconvert.api.devices import size_or_device
from qconvert.api.types import SILENT, Size, Where
from qconvert.errors import UsageError
from qconvert.machine.watcher import Silent, Watcher

if TYPE_CHECKING:
    from qconvert.evaluation.runtimes.subject import BackendName
    from qconvert.report.building import Watching
    from qconvert.report.types import Report


def make_report(
    model: Where,
    type: Sequence[str] = (),
    output: Where = "report",
    *,
    reference: Where | None = None,
    adapter: Where | None = None,
    calibration: Where | None = None,
    ways: bool = False,
    data: Where = "self",
    tokens: int | None = None,
    window: int = 512,
    under: Size | None = None,
    within: float | None = None,
    prompts: Where | None = None,
    answer_tokens: int = 64,
    speed: bool = True,
    answers: bool = True,
    sensitivity: bool = True,
    vocabulary: bool = True,
    backend: "BackendName" = "auto",
    device: str = "auto",
    threads: int | None = None,
    watcher: "Watcher | Watching" = SILENT,
) -> "Report":
    """Quantize a model to several types, measure them all, and write a page about them: the command
    `report`, whose name is that of a package here. What is there and up to date is used again.

    Args:
        type: of the files; empty for a ladder from q8_0 to q2_k.
        output: the folder; report.html in it is the page.
        reference: what the files are held against, where the model was made of another.
        adapter: a directory of PEFT's, merged into the model.
        calibration: what `calibrate` wrote, or an importance matrix.
        ways: of each type also a file without it, without feedback, and with a budget.
        data: the text, as the command takes it; "self" is written by the model.
        under: bytes that the file to take may have, or a device that it has to fit: "phone".
        within: how near its perplexity has to be to the original's; 0.01 is 1%.
        prompts: a file of prompts; None for our own.
        speed, answers, sensitivity: whether they are measured.
        watcher: one, or what gives one for each stage by the name of what it counts.

    Returns:
        The table and the choice, whose `row` is None where no file is as it was wished for.

    Raises:
        UsageError: an option is not known, or does not fit.
        As `quantize` and `evaluate`.
    """
    from qconvert.evaluation.runtimes.subject import BACKENDS
    from qconvert.report.building import build
    from qconvert.report.request import Asked
    from qconvert.report.types import Wish
    from qconvert.report.writing import write_report
    from qconvert.run.executor import default_threads

    room = size_or_device(under, "--under", str(model)) if isinstance(under, str) else under
    wish, folder = Wish(room, within), Path(output)
    if backend not in BACKENDS:
        raise UsageError(f"{backend!r:.40} is not a backend", f"choose {', '.join(BACKENDS)}")
    if ways and calibration is None:
        raise UsageError("--ways compares what a calibration gains", "give one with -c")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, and a report is a folder", "name another with -o")
    asked = Asked(
        model=str(model),
        types=tuple(type),
        folder=folder,
        reference=None if reference is None else str(reference),
        adapter=None if adapter is None else Path(adapter),
        calibration=None if calibration is None else Path(calibration),
        ways=ways,
        data=str(data),
        tokens=tokens,
        window=window,
        prompts=None if prompts is None else Path(prompts),
        answer_tokens=answer_tokens,
        wish=wish,
        speed=speed,
        answers=answers,
        sensitivity=sensitivity,
        vocabulary=vocabulary,
        backend=backend,
        device=device,
        threads=threads or default_threads(),
        quiet=isinstance(watcher, Silent),
    )
    found = build(asked, watcher if callable(watcher) else lambda unit: nullcontext(watcher))
    write_report(found, folder, wish)
    return found
