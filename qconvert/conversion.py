"""From what the user asks for to outputs that can be written: one plan for each, nothing read yet
but headers and statistics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qconvert.calibration.imatrix import Importance
from qconvert.calibration.types import Calibration
from qconvert.checkpoint import Checkpoint
from qconvert.errors import UsageError
from qconvert.outputs import GgufFile, Output
from qconvert.plan import Model, Plan, make_plan, read_model
from qconvert.recipes.options import OutputOptions
from qconvert.recipes.schemes import is_scheme
from qconvert.recipes.types import Recipe, make_recipe
from qconvert.work import Watcher

Statistics = Calibration | Importance
"""What was measured of a model's inputs: by this program, or by llama.cpp."""


@dataclass(frozen=True)
class Planned:
    """One output, ready to be written."""

    options: OutputOptions
    plan: Plan
    output: Output


@dataclass(frozen=True)
class Run:
    """How the model is run again, where a plan needs that.

    Attributes:
        threads: cores to use.
        device: "auto", "cpu", "cuda" or "mps".
        dry: only plan; what would be measured is left out.
    """

    threads: int
    watcher: Watcher
    device: str = "auto"
    dry: bool = False


def plan_outputs(checkpoint: Checkpoint, asked: Sequence[OutputOptions], run: Run) -> list[Planned]:
    """Plan every output.

    Raises:
        UsageError: two outputs have one place, or an output is the source itself.
        CheckpointError: a calibration or an importance matrix cannot be read.
        PlanError: an output cannot be made; see `make_plan` and `make_compressed_plan`.
    """
    paths = _check_places(checkpoint, asked)
    named = {path for one in asked for path in (one.calibration, one.importance) if path}
    measured = {path: read_statistics(path, checkpoint) for path in sorted(named)}
    model = None
    planned = []
    for options, path in zip(asked, paths, strict=True):
        if is_scheme(options.type):
            raise NotImplementedError(options.type)
        else:
            model = model or read_model(checkpoint)
            planned.append(_plan_gguf(model, options, path, measured))
    return planned


def _plan_gguf(
    model: Model, options: OutputOptions, path: Path, measured: Mapping[Path, Statistics]
) -> Planned:
    plan = make_plan(model, recipe_of(options), _importance(options, measured))
    files = plan.shards(path, options.split_max_size)
    output = GgufFile(model.checkpoint, plan.tensors, files, options.allow_nan)
    return Planned(options, plan, output)


def read_statistics(path: Path, checkpoint: Checkpoint) -> Statistics:
    """A calibration of this model, or an importance matrix of llama.cpp.

    Raises:
        CheckpointError: it is neither.
        PlanError: it belongs to another model.
    """
    from qconvert.calibration.file import check_calibration, is_calibration, read_calibration
    from qconvert.calibration.imatrix import read_importance

    if not is_calibration(path):
        return read_importance(path)
    calibration = read_calibration(path)
    check_calibration(calibration, checkpoint)
    return calibration


def _importance(options: OutputOptions, measured: Mapping[Path, Statistics]) -> Importance | None:
    """That of `--importance`, else what the calibration gives."""
    path = options.importance or options.calibration
    found = measured[path] if path else None
    if isinstance(found, Calibration):
        from qconvert.calibration.importance import importance_of

        return importance_of(found)
    return found


def _calibration(options: OutputOptions, measured: Mapping[Path, Statistics]) -> Calibration | None:
    found = measured[options.calibration] if options.calibration else None
    return found if isinstance(found, Calibration) else None


def _check_places(checkpoint: Checkpoint, asked: Sequence[OutputOptions]) -> list[Path]:
    """Where each output goes, no two to the same place and none over the source."""
    taken = {path.resolve(): "the source" for path in (*checkpoint.files, checkpoint.path)}
    paths = []
    for options in asked:
        path = output_path(checkpoint, options)
        real = path.resolve()
        if taken.get(real) == "the source":
            raise UsageError(f"{path} is the source itself", "name another output with -o")
        if real in taken:
            raise UsageError(
                f"{taken[real]} and {options.type} would both be written to {path}",
                "give each an output of its own",
            )
        taken[real] = options.type
        paths.append(path)
    return paths


def output_path(checkpoint: Checkpoint, options: OutputOptions) -> Path:
    """Where an output goes: as named, or NAME-TYPE in its folder."""
    if options.output is not None:
        return options.output
    source = checkpoint.source.partition("@")[0].rstrip("/")
    name = Path(source).name.removesuffix(".gguf") or "model"
    own = (
        f"{name}-{options.type}"
        if is_scheme(options.type)
        else f"{name}-{options.type.upper()}.gguf"
    )
    return (options.folder or Path()) / own


def recipe_of(options: OutputOptions) -> Recipe:
    """The recipe of a GGUF file."""
    return make_recipe(
        options.type,
        pure=options.pure,
        output_type=options.output_type,
        embedding_type=options.embedding_type,
        overrides=[f"{pattern}={name}" for pattern, name in options.overrides],
        keep=options.keep,
        fallback=options.fallback,
        allow_nan=options.allow_nan,
    )
