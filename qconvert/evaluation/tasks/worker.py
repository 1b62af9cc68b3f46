"""The process in which lm-eval runs; see `qconvert.evaluation.tasks.run`."""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qconvert.errors import UsageError
from qconvert.evaluation.runtimes.child import serve
from qconvert.evaluation.tasks.run import is_file


def run(request: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Load the model and have lm-eval run the tasks.

    Args:
        request: "path", "runtime", "tasks", "limit", "threads".
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    own = [str(Path(task).resolve()) for task in request["tasks"] if is_file(task)]
    named = [task for task in request["tasks"] if not is_file(task)]
    manager = TaskManager(include_defaults=bool(named))
    check_names(named, manager.all_tasks)
    model = load(Path(request["path"]), request["runtime"], request["threads"])
    found = simple_evaluate(
        model=model,
        tasks=[*named, *own],
        limit=request["limit"],
        task_manager=manager,
        log_samples=False,
    )
    return {
        "lm_eval": version("lm_eval"),
        "limit": request["limit"],
        "tasks": {name: metrics(values) for name, values in found["results"].items()},
    }


def check_names(names: Sequence[str], known: Sequence[str]) -> None:
    """Raises:
    UsageError: lm-eval has no such task.
    """
    unknown = [name for name in names if name not in set(known)]
    if unknown:
        raise UsageError(
            f"lm-eval has no task {unknown[0]!r:.80}", "lm-eval ls tasks lists them all"
        )


def load(path: Path, runtime: str, threads: int) -> Any:
    """The model as an object of lm-eval."""
    if runtime == "llama.cpp":
        from qconvert.evaluation.tasks.llama import llama_model

        return llama_model(path, threads)
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(threads)
    return HFLM(
        pretrained=str(path), device="cpu", dtype="auto", batch_size=1, trust_remote_code=False
    )


def metrics(values: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Numbers by metric, out of lm-eval's "acc,none" and "acc_stderr,none"; the filter is named
    where it is not "none"."""
    found: dict[str, dict[str, float | None]] = {}
    for key, value in values.items():
        metric, _, filter_ = key.partition(",")
        if not filter_ or metric.endswith("_stderr"):
            continue
        name = metric if filter_ == "none" else f"{metric} ({filter_})"
        error = values.get(f"{metric}_stderr,{filter_}")
        found[name] = {"value": _number(value), "standard_error": _number(error)}
    return found


def _number(value: Any) -> float | None:
    """None for what lm-eval does not know."""
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None


if __name__ == "__main__":
    serve(run)
