"""Downstream tasks: the model is handed to lm-eval, where that is installed.

Directories are run by lm-eval's own class for transformers, GGUF files by llama.cpp. A task is a
name that lm-eval knows, or a YAML file of the user's own, whose data may be local. lm-eval itself
fetches the data of its tasks from the hub; `HF_HUB_OFFLINE=1` keeps it from that.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qconvert.errors import UsageError
from qconvert.evaluation.answers.generators import runtime_of
from qconvert.evaluation.runtimes.child import ask

PATIENCE = 24 * 3600.0
"""Seconds; lm-eval tells nothing before it is done."""


def run_tasks(
    path: Path, tasks: Sequence[str], limit: int | None = None, *, threads: int
) -> dict[str, Any]:
    """Run tasks on one file or directory, in a process of its own.

    Args:
        tasks: names, or paths of YAML files.
        limit: examples of each task; None takes all.
        threads: that compute.

    Returns:
        `{"lm_eval": version, "limit": limit, "tasks": {name: {metric: {"value": float,
        "standard_error": float or None}}}}`.

    Raises:
        UsageError: lm-eval is not installed, or a YAML file is not there.
        QconvertError: lm-eval fails, as it does on names that it does not know.
    """
    check_tasks(tasks)
    runtime = runtime_of(path)
    request = {
        "path": str(path),
        "runtime": runtime,
        "tasks": list(tasks),
        "limit": limit,
        "threads": threads,
    }
    return ask(
        "qconvert.evaluation.tasks.worker",
        request,
        f"lm-eval fails on {path}",
        patience=PATIENCE,
        offline=False,
    )


def check_tasks(tasks: Sequence[str]) -> None:
    """Say at once what cannot work.

    Raises:
        UsageError: lm-eval is not installed, or a YAML file is not there.
    """
    if find_spec("lm_eval") is None:
        raise UsageError(
            "tasks are run by lm-eval, which is not installed", "pip install lm-eval accelerate"
        )
    if not tasks:
        raise UsageError("there are no tasks to run")
    for task in tasks:
        if is_file(task) and not Path(task).is_file():
            raise UsageError(f"there is no file {task}", "name a YAML file or a task of lm-eval")


def is_file(task: str) -> bool:
    """Whether a task is named by its file."""
    return task.endswith((".yaml", ".yml"))
