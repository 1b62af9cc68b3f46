"""How far files are from their original."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qconvert.api.types import SILENT, Where
from qconvert.errors import UsageError
from qconvert.machine.watcher import Watcher

if TYPE_CHECKING:
    from qconvert.evaluation.divergence.types import Evaluation
    from qconvert.evaluation.runtimes.subject import BackendName


def evaluate(
    files: Where | Sequence[Where],
    reference: Where,
    data: Where,
    *,
    tokens: int | None = None,
    window: int = 512,
    backend: "BackendName" = "auto",
    exact: bool = False,
    adapter: Where | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    executor: str = "threads",
    workers: int | None = None,
    address: str | None = None,
    speed: bool = False,
    tasks: Sequence[str] = (),
    task_limit: int | None = None,
    max_kld: float | None = None,
    max_perplexity_increase: float | None = None,
    watcher: Watcher = SILENT,
) -> "Evaluation":
    """How far files are from the original that they were made of, on a text.

    Args:
        files: GGUF files, directories or hub ids.
        reference: the original.
        data: a text, as the command takes it.
        adapter: a directory of PEFT's, merged into the original.
        executor, workers, address: "ray" takes the workers of a cluster.
        speed, tasks, task_limit: measured too, in each file's runtime; tasks are lm-eval's.
        max_kld, max_perplexity_increase: gates, on which there are verdicts; 0.02 is 2%.

    Raises:
        UsageError, CheckpointError, UnsupportedError: a file cannot be compared.
        WeightError: a model's logits are NaN or infinite.
    """
    from qconvert.evaluation.divergence.evaluate import Choices
    from qconvert.evaluation.divergence.evaluate import evaluate as run
    from qconvert.evaluation.extras import Asked, check_extras, measure_extras
    from qconvert.evaluation.gates.gates import judge, make_gates
    from qconvert.evaluation.runtimes.settings import Settings
    from qconvert.evaluation.runtimes.subject import BACKENDS
    from qconvert.run.crew import crew_of
    from qconvert.run.executor import default_threads
    from qconvert.run.visiting import go_through

    gates = make_gates(max_kld, max_perplexity_increase)
    if backend not in BACKENDS:
        raise UsageError(f"{backend!r} is not a backend", f"choose {', '.join(BACKENDS)}")
    crew = crew_of(executor, threads, workers, address)
    device = crew.device(device)
    if executor != "threads" and backend not in ("auto", "torch"):
        raise UsageError(f"workers compute with torch, not {backend}", "leave --backend out")
    several = [str(files)] if isinstance(files, str | Path) else [str(file) for file in files]
    asked = Asked(speed, tuple(tasks), task_limit, threads or default_threads())
    check_extras(several, asked)
    merged = None if adapter is None else Path(adapter)
    with crew.at_work(watcher) as at_work:
        through = None if isinstance(at_work, int) else partial(go_through, at_work, crew.cores)
        settings = Settings(device, dtype, threads, through=through)
        runtime = "torch" if through else backend
        choices = Choices(tokens, window, runtime, exact, merged, settings=settings)
        found = run(str(reference), str(data), several, choices, watcher)
    extras = tuple(measure_extras(several, asked, watcher.note))
    return replace(found, extras=extras, verdicts=tuple(judge(found, gates)))
