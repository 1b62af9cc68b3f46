"""What `--speed` and `--tasks` add to an evaluation: each file in its own runtime."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qconvert.checkpoint.open import locate
from qconvert.evaluation.answers.generators import runtime_of
from qconvert.evaluation.speed.measure import Speed, describe_speed, measure_speed
from qconvert.evaluation.tasks.run import check_tasks, run_tasks


@dataclass(frozen=True)
class Asked:
    """What is to be added.

    Attributes:
        speed: whether.
        tasks: names of lm-eval's, or YAML files; none runs nothing.
        limit: examples of each task; None takes all.
        threads: that compute.
    """

    speed: bool
    tasks: tuple[str, ...]
    limit: int | None
    threads: int


@dataclass(frozen=True)
class Extras:
    """Of one file; None and nothing where it was not asked for."""

    speed: Speed | None
    tasks: dict[str, Any]


def check_extras(files: Sequence[str], asked: Asked) -> None:
    """Say what cannot be measured before anything is.

    Raises:
        QconvertError: a file's runtime is not installed, or lm-eval is not, or there is no such
            file.
    """
    if asked.tasks:
        check_tasks(asked.tasks)
    if asked.speed or asked.tasks:
        for file in files:
            runtime_of(locate(file)[1])


def measure_extras(
    files: Sequence[str], asked: Asked, note: Callable[[str], None] = lambda step: None
) -> list[Extras]:
    """Measure one file after the other.

    Args:
        note: is told which file is run, and how far it is.

    Raises:
        QconvertError: a file cannot be run, or lm-eval fails.
    """
    found = []
    for number, file in enumerate(files, 1):
        path, speed, tasks = locate(file)[1], None, {}
        if asked.speed:
            note(f"measuring the speed of {file} ({number} of {len(files)})")
            speed = measure_speed(path, threads=asked.threads)
        if asked.tasks:
            note(f"running {', '.join(asked.tasks)} on {file}")
            tasks = run_tasks(path, asked.tasks, asked.limit, threads=asked.threads)
        found.append(Extras(speed, tasks))
    return found


def extras_as_data(extras: Extras) -> dict[str, Any]:
    """Keys for a file's JSON."""
    found: dict[str, Any] = {}
    if extras.speed is not None:
        found["speed"] = describe_speed(extras.speed)
    if extras.tasks:
        found["tasks"] = extras.tasks
    return found
