"""Outputs for whose weights the model runs on a sample: these are made first, and then moved.

While it runs there is a folder `.NAME.feedback.partial` beside the output; see
`qconvert.containers.store`. It goes when the output is complete.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from hashlib import sha256
from typing import Any

from qconvert.containers.folder import work_folder
from qconvert.containers.store import Store, open_store
from qconvert.forward.walk import Place
from qconvert.machine.watcher import Watcher
from qconvert.model.open import open_model
from qconvert.plan.algorithms import by_sample, cost, first_matrix, format_to_fit, gguf_name
from qconvert.plan.blocks import Blocks
from qconvert.plan.types import Plan, TensorPlan
from qconvert.run.by_block import Job, Walks, open_walks, quantize_by_block
from qconvert.run.executor import Workers, library_threads
from qconvert.run.fitting import Task, linear_algebra_on
from qconvert.run.making import job_of, make
from qconvert.run.slabs import cut
from qconvert.run.stored import with_made

NAMED = 4
"""Weights that a notice names."""


@contextmanager
def with_sampled(
    plans: Sequence[Plan], workers: Workers, watcher: Watcher, device: str
) -> Iterator[list[Plan]]:
    """The plans, with what their algorithms have made taken from stores; these go if there is no
    error.

    Raises:
        OutputError: no room, or another run works on the same output.
        UnsupportedError: transformers or this program cannot run the model.
        WeightError: NaN or infinity comes out of a block.
    """
    plans = [without_exact(plan) if plan.sample is not None else plan for plan in plans]
    made = list(plans)
    with ExitStack() as stack:
        for numbers in by_sample(plans):
            own = [plans[number] for number in numbers]
            stores = _make(stack, own, workers, watcher, device)
            for number, (store, helped) in zip(numbers, stores, strict=True):
                made[number] = replace(with_made(plans[number], store), helped=helped)
                stack.push(_deleting(store))
        yield made


def _make(
    stack: ExitStack, plans: Sequence[Plan], workers: Workers, watcher: Watcher, device: str
) -> list[tuple[Store, dict[str, float]]]:
    """Stores with all that is to be made of plans with one sample, and what helped."""
    for plan in plans:
        plan.target.check()  # before the model runs for long
    watcher.note(cost(plans))
    # Whatever is asked for, the same number: sums of a matrix library depend on it.
    cores = library_threads()
    paths = [plan.target.path.with_name(f"{plan.target.path.name}.feedback") for plan in plans]
    places = [Place(work_folder(path), device) for path in paths]
    sample = plans[0].sample
    assert sample is not None
    walks = open_walks(open_model(plans[0].checkpoint), sample, places)
    stores = [
        stack.enter_context(open_store(path, _identity(plan, walks, cores)))
        for path, plan in zip(paths, plans, strict=True)
    ]
    jobs = [
        Job(tasks_of(plan), store, norms_of(plan))
        for plan, store in zip(plans, stores, strict=True)
    ]
    with linear_algebra_on(cores):
        helped = quantize_by_block(walks, jobs, watcher, workers)
    for plan, found in zip(plans, helped, strict=True):
        for line in about(found, walks):
            watcher.note(f"{plan.target.path.name}: {line}")
    return list(zip(stores, helped, strict=True))


def _deleting(store: Store) -> Any:
    """Deletes a store on leaving without an error."""

    def leave(kind: Any, *_: Any) -> None:
        if kind is None:
            store.delete()

    return leave


def about(helped: Mapping[str, float], walks: Walks) -> Iterator[str]:
    """Which weights took what, in words."""
    unseen = len(walks.original.tokens) - walks.shown
    left = [name for name, share in helped.items() if not share]
    yield (
        f"feedback brings {len(helped) - len(left)} of {len(helped)} weights nearer to the "
        f"original, on {unseen} window{'s' if unseen > 1 else ''} that it was not shown"
    )
    if left:
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        yield f"without it are {', '.join(left[:NAMED])}{more}"


def without_exact(plan: Plan) -> Plan:
    """The plan, with nothing to be done for weights that lie on their format's grid: no algorithm
    brings them nearer to what they are."""
    tensors = [
        replace(tensor, algorithm="") if tensor.algorithm and _is_exact(plan, tensor) else tensor
        for tensor in plan.tensors
    ]
    return replace(plan, tensors=tuple(tensors))


def _is_exact(plan: Plan, tensor: TensorPlan) -> bool:
    if not isinstance(tensor.coding, Blocks) or not tensor.coding.rounded_to:
        return False
    return all(make(job_of(plan, slab)).exact for slab in cut(tensor))


def tasks_of(plan: Plan) -> dict[str, list[Task]]:
    """What is to be made by block, by the GGUF names of the weights."""
    tasks: dict[str, list[Task]] = {}
    for tensor in plan.tensors:
        format_ = format_to_fit(tensor) if tensor.algorithm else None
        if format_ is not None:
            task = Task(tensor, format_, tensor.algorithm, first_matrix(tensor))
            tasks.setdefault(gguf_name(tensor), []).append(task)
    return tasks


def norms_of(plan: Plan) -> dict[str, TensorPlan]:
    """The norms of a GGUF file that are stored in float32, by name."""
    return {
        tensor.name: tensor
        for tensor in plan.tensors
        if tensor.format == "F32" and "norm." in tensor.name and len(tensor.shape) == 1
    }


def _identity(plan: Plan, walks: Walks, cores: int) -> str:
    """A digest of all that the weights depend on: the headers name the recipe and the calibration,
    the walk the source, the tokens and how they are computed."""
    digest = sha256(repr((walks.original.identity, walks.shown, cores)).encode())
    for file in plan.target.weight_files:
        digest.update(file.header())
    return digest.hexdigest()
