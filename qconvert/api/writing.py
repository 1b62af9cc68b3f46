"""From plans to outputs, and to the hub."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qconvert.api.types import put_on_hub

if TYPE_CHECKING:
    from qconvert.plan.types import Plan
    from qconvert.run.crew import Crew
    from qconvert.run.stream import Result
    from qconvert.run.types import Run


def write(
    plans: "Sequence[Plan]", crew: "Crew", run: "Run", repo: str | None, *, public: bool
) -> "tuple[Result, ...]":
    """Write what is planned of one checkpoint, and tell what should be known of it before; a
    result for each plan."""
    from qconvert.plan.fallbacks import notices
    from qconvert.run.outputs import write_stale

    for plan in plans:
        lines = notices(plan)
        for line in [f"{plan.recipe.type}:"] * (len(plans) > 1 and bool(lines)) + lines:
            run.watcher.note(line)
    if run.dry:
        return _planned(plans, crew, run)
    with crew.at_work(run.watcher) as workers:
        made = write_stale(plans, workers, run.watcher, run.device, force=run.force)
    paths = [plan.target.path for plan in plans]
    source = plans[0].checkpoint.source
    put_on_hub(repo, [one.paths for one in made], paths, source, run.watcher, public=public)
    return tuple(made)


def _planned(plans: "Sequence[Plan]", crew: "Crew", run: "Run") -> "tuple[Result, ...]":
    """What would be written, and what it would take."""
    from qconvert.containers.target import paths_of
    from qconvert.plan.algorithms import by_sample, cost
    from qconvert.plan.effort import effort_line
    from qconvert.run.stream import Result

    for numbers in by_sample(plans):
        run.watcher.note(cost([plans[number] for number in numbers]))
    run.watcher.note(effort_line(plans, crew.workers or 1, crew.cores))
    return tuple(Result(one, paths_of(one.target), one.nbytes, 0.0, 0) for one in plans)
