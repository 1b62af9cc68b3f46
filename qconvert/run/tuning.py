"""`tune`: a quantized file, brought nearer to the original by training what it stores.

    quantize                     with feedback, as `quantize` does
    run the original once        and keep what it foretells of every token
    train                        scales, minima and norms, or codes too (`run.training`)
    write the file               of the same bytes, if what was learnt helps on windows not shown
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.algorithms.tune import tuned
from qconvert.containers.folder import work_folder
from qconvert.containers.store import Store, open_store
from qconvert.errors import PlanError
from qconvert.formats.safetensors.scales import rounded, stored
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import Model, open_model
from qconvert.plan.algorithms import first_matrix, gguf_name, stored_format
from qconvert.plan.names import names_in_gguf
from qconvert.plan.types import Plan, TensorPlan
from qconvert.run.by_block import in_order
from qconvert.run.executor import library_threads
from qconvert.run.fitting import linear_algebra_on, prepared
from qconvert.run.outputs import write_outputs
from qconvert.run.stream import Result
from qconvert.run.training.loop import Outcome, train
from qconvert.run.training.student import Matrix, Norm, Student
from qconvert.run.training.schedule import Schedule
from qconvert.run.training.start import Start, changed, write_start
from qconvert.run.training.teacher import teach
from qconvert.run.types import Run


@dataclass(frozen=True)
class Tuning:
    """How an output is tuned.

    Attributes:
        tokens: to learn from, in all rounds through the sample together.
        rate: the highest, in parts of a scale.
        batch: tokens of a step.
        weights: whether codes are trained too.
        seed: of the order of the windows.
    """

    tokens: int
    rate: float
    batch: int = 2048
    weights: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Learnt:
    """What was written, and what came of the training."""

    result: Result
    outcome: Outcome


def tune(model: Model, plan: Plan, path: Path, tuning: Tuning, run: Run) -> Learnt:
    """Tune an output.

    Args:
        model: the original.
        plan: of the quantized file to begin with; see `training.start.beside`.
        path: of the output.

    Raises:
        PlanError: there is no sample.
        Also what `write_outputs` and `train` raise.
    """
    if plan.sample is None:
        raise PlanError(
            "tuning needs a calibration of this model with its tokens",
            "make one with `qconvert calibrate`, and give it with -c",
        )
    start = write_start(plan, run)
    tokens, shown = in_order(plan.sample)
    cores = library_threads()
    place = Place(work_folder(path.with_name(f"{path.name}.tune")), run.device)
    walk = Walk(open_model(start.checkpoint), tokens, replace(place, states="student"))
    identity = _identity(start, walk, tuning, cores)
    with (
        linear_algebra_on(cores),
        open_store(path.with_name(f"{path.name}.tune"), identity) as store,
    ):
        run.watcher.begin(tokens.size * len(walk), 0)
        teacher = teach(
            model, tokens, place, store, lambda count: run.watcher.advance(count, "the original")
        )
        walk.embed()
        student = Student(walk, shown, *_trained(model, start, tuning), teacher, tuning.rate)
        outcome = train(student, _schedule(tokens, shown, tuning), store, run.watcher)
        if outcome.step:
            _keep(student, store)
        made_by = {"qconvert.tuned": _words(tuning, outcome)}
        final = changed(start, path, store.tensors, made_by)
        result = write_outputs([final], run.threads, run.watcher, run.device)[0]
        store.delete()
    start.delete()
    return Learnt(result, outcome)


def _schedule(tokens: np.ndarray, shown: int, tuning: Tuning) -> Schedule:
    batch = max(tuning.batch // tokens.shape[1], 1)
    steps = max(tuning.tokens // (batch * tokens.shape[1]), 1)
    return Schedule(shown, batch, steps, tuning.seed)


def _trained(
    model: Model, start: Start, tuning: Tuning
) -> tuple[dict[str, list[Matrix]], dict[str, Norm]]:
    """All that can be trained."""
    import torch

    names = names_in_gguf(model) if model.checkpoint.container != "gguf" else {}
    matrices: dict[str, list[Matrix]] = {}
    norms: dict[str, Norm] = {}
    for tensor in start.plan.tensors:
        format_ = stored_format(tensor)
        if format_ is not None:
            x = None
            if tuning.weights:
                x = prepared(model.checkpoint, tensor, 0, tensor.map.rows)
            made = tuned(format_, start.arrays(tensor, format_), x)
            if made is not None:
                one = Matrix(tensor, first_matrix(tensor), made)
                matrices.setdefault(gguf_name(tensor), []).append(one)
        elif _is_norm(tensor):
            base = _numbers(start, tensor)
            (name,) = names.get(tensor.name, [tensor.name])
            norms[name] = Norm(tensor, base, torch.zeros(base.shape, requires_grad=True))
    for of in matrices.values():
        of.sort(key=lambda one: one.first)
    return matrices, norms


def _is_norm(tensor: TensorPlan) -> bool:
    is_plain = len(tensor.slots) == 1 and tensor.slots[0].dtype in ("F32", "BF16", "F16")
    is_gain = len(tensor.shape) == 1 and tensor.name.endswith("norm.weight")
    return is_plain and is_gain and not tensor.map.steps


def _numbers(start: Start, tensor: TensorPlan) -> np.ndarray:
    from qconvert.checkpoint.files import read_bytes_at
    from qconvert.formats.floats import to_float32

    info = start.stored[tensor.slots[0].name]
    raw = np.frombuffer(read_bytes_at(info.path, info.offset, info.nbytes), np.uint8)
    return to_float32(raw, tensor.slots[0].dtype)


def _keep(student: Student, store: Store) -> None:
    """Put all that was trained into the store, as it is to be written."""
    for tensor, arrays in student.arrays():
        if len(arrays) == 1 and arrays[0].dtype == np.float32 and len(tensor.shape) == 1:
            dtype = tensor.slots[0].dtype
            arrays = (stored(rounded(arrays[0], dtype), dtype),)
        names = [slot.name for slot in tensor.slots]
        store.put(tensor.name, dict(zip(names, arrays, strict=False)))


def _words(tuning: Tuning, outcome: Outcome) -> str:
    what = "weights" if tuning.weights else "scales and norms"
    return f"{what}, {tuning.tokens} tokens, best after step {outcome.step}"


def _identity(start: Start, walk: Walk, tuning: Tuning, cores: int) -> str:
    digest = sha256(repr((walk.identity, tuning, cores)).encode())
    for file in start.plan.target.weight_files:
        digest.update(file.header())
    return digest.hexdigest()
