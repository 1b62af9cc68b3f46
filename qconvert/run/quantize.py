"""From what the user asks for to outputs that can be written: one plan for each, nothing read yet
but headers and statistics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from qconvert.calibration.importance import Importance, importance_of, match_importance
from qconvert.calibration.types import Calibration
from qconvert.checkpoint import Checkpoint
from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.containers.directory import MAX_SHARD_SIZE, Directory
from qconvert.containers.gguf import GgufFiles
from qconvert.errors import PlanError, UsageError
from qconvert.formats.safetensors.types import ActivationFormat
from qconvert.machine.watcher import Watcher
from qconvert.model.source import Source, read_source
from qconvert.plan.gguf.plan import Model, make_plan, read_model
from qconvert.plan.gguf.recipe import Recipe, make_recipe
from qconvert.plan.options import OutputOptions
from qconvert.plan.safetensors.schemes import is_scheme
from qconvert.run.work import Output

if TYPE_CHECKING:
    from qconvert.plan.safetensors.choices import Choice
    from qconvert.plan.safetensors.plan import CompressedTensor
    from qconvert.plan.safetensors.recipe import CompressedRecipe
    from qconvert.plan.safetensors.statistics import Statistics
    from qconvert.run.activations import Activations

Measured = Calibration | Importance
"""What was measured of a model's inputs: by this program, or by llama.cpp."""


ACTIVATION_RANGE = "mse"
"""The usual estimator of static activations' ranges."""


@dataclass(frozen=True)
class Line:
    """What is said of one tensor of an output.

    Attributes:
        source: the dtype of the stored weights that it is made of.
        format: what is written: a format, a scheme or a dtype.
        wanted: what was asked for.
        reason: why they differ; empty if they do not.
        extra_bytes: what the difference costs.
    """

    name: str
    shape: tuple[int, ...]
    source: str
    format: str
    wanted: str
    reason: str
    nbytes: int
    extra_bytes: int


@dataclass(frozen=True)
class Planned:
    """One output, ready to be written.

    Attributes:
        lines: every tensor.
        kinds: how many tensors are written how, the most bytes first.
        nbytes: of the weights; of a GGUF file all.
        notices: what the user should know.
    """

    options: OutputOptions
    output: Output
    lines: tuple[Line, ...]
    kinds: Mapping[str, int]
    nbytes: int
    bits_per_weight: float
    notices: tuple[str, ...]


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
    model, source = None, None
    planned = []
    for options, path in zip(asked, paths, strict=True):
        if is_scheme(options.type):
            source = source or read_source(checkpoint)
            planned.append(_plan_directory(source, options, path, measured, run))
        else:
            model = model or read_model(checkpoint)
            planned.append(_plan_gguf(model, options, path, measured))
    return planned


def _plan_gguf(
    model: Model, options: OutputOptions, path: Path, measured: Mapping[Path, Measured]
) -> Planned:
    plan = make_plan(model, recipe_of(options), _importance(options, measured))
    files = plan.shards(path, options.split_max_size)
    output = Output(model.checkpoint, plan.tensors, GgufFiles(files), options.allow_nan)
    lines = tuple(
        Line(
            tensor.name,
            tensor.map.shape,
            model.source_type(tensor.map),
            tensor.format,
            tensor.wanted,
            tensor.reason,
            tensor.nbytes,
            tensor.extra_bytes if tensor.is_fallback else 0,
        )
        for tensor in plan.tensors
    )
    sizes = plan.nbytes, plan.bits_per_weight
    return Planned(options, output, lines, plan.formats, *sizes, plan.notices)


def _plan_directory(
    source: Source,
    options: OutputOptions,
    path: Path,
    measured: Mapping[Path, Measured],
    run: Run,
) -> Planned:
    from qconvert.plan.safetensors.plan import make_compressed_plan
    from qconvert.plan.safetensors.recipe import compressed_recipe

    recipe = compressed_recipe(options)
    statistics = _statistics(source, recipe, options, measured, run)
    plan = make_compressed_plan(source, recipe, statistics)
    limit = options.max_shard_size or MAX_SHARD_SIZE
    target = Directory(path, plan.slots, plan.metadata, plan.files, limit)
    output = Output(source.checkpoint, plan.tensors, target, options.allow_nan)
    return Planned(
        options,
        output,
        tuple(map(_line, plan.choices, plan.tensors)),
        plan.schemes,
        plan.nbytes,
        plan.bits_per_weight,
        plan.notices,
    )


def _line(choice: "Choice", tensor: "CompressedTensor") -> Line:
    from qconvert.plan.safetensors.notices import described

    nbytes = sum(slot.nbytes for slot in tensor.slots)
    format_, wanted = (
        described(scheme) if scheme else tensor.slots[0].dtype
        for scheme in (choice.scheme, choice.wanted)
    )
    reason = "; ".join(choice.reasons)
    weight = choice.weight
    return Line(weight.name, weight.map.shape, weight.dtype, format_, wanted, reason, nbytes, 0)


def _statistics(
    source: Source,
    recipe: "CompressedRecipe",
    options: OutputOptions,
    measured: Mapping[Path, Measured],
    run: Run,
) -> "Statistics":
    """What the calibration adds to a directory.

    Raises:
        PlanError: it is needed and there is none, or the importance belongs to another model.
    """
    from qconvert.plan.safetensors.statistics import NOTHING, Statistics

    importance = _importance(options, measured)
    made = NOTHING
    if importance is not None:
        importance, warnings = match_importance(importance, source.shapes)
        made = Statistics(importance.values, name=importance.path.name, notices=tuple(warnings))
    inputs = recipe.scheme.inputs
    if inputs is None or (inputs.dynamic and options.smooth is None):
        return made
    calibration = _calibration(options, measured)
    if calibration is None:
        what = "static activations need" if options.smooth is None else "--smooth needs"
        raise PlanError(
            f"{what} a calibration of this model",
            "make one with `qconvert calibrate`, and give it with -c",
        )
    if run.dry and options.smooth is not None:
        return made  # sizes do not depend on what the model would have to be run for
    done = _activations(source, calibration, inputs, options, run)
    ranges = None if inputs.dynamic else done.ranges
    notices = (*made.notices, *done.notices)
    return replace(made, ranges=ranges, smoothing=done.smoothing, notices=notices)


def _activations(
    source: Source,
    calibration: Calibration,
    form: ActivationFormat,
    options: OutputOptions,
    run: Run,
) -> "Activations":
    """Smoothing and stored ranges; the model is run again where they ask for it."""
    from qconvert.algorithms.ranges import estimator
    from qconvert.forward.walk import Place
    from qconvert.run.activations import prepare_activations

    name = options.activation_range or ACTIVATION_RANGE
    percentile = options.percentile if name == "percentile" else None
    with TemporaryDirectory(prefix="qconvert-") as folder:
        return prepare_activations(
            source,
            calibration,
            form,
            smooth=options.smooth,
            estimator=estimator(name, percentile),
            strict_static=options.strict_static,
            place=Place(Path(folder), run.device, threads=run.threads),
            watcher=run.watcher,
        )


def read_statistics(path: Path, checkpoint: Checkpoint) -> Measured:
    """A calibration of this model, or an importance matrix of llama.cpp.

    Raises:
        CheckpointError: it is neither.
        PlanError: it belongs to another model.
    """
    from qconvert.calibration.file import check_calibration, read_calibration
    from qconvert.calibration.imatrix import read_importance
    from qconvert.calibration.imatrix_dat import is_dat

    if read_bytes_at(path, 0, min(4, file_size(path))) == b"GGUF" or is_dat(path):
        return read_importance(path)
    calibration = read_calibration(path)
    check_calibration(calibration, checkpoint)
    return calibration


def _importance(options: OutputOptions, measured: Mapping[Path, Measured]) -> Importance | None:
    """That of `--importance`, else what the calibration gives."""
    path = options.importance or options.calibration
    found = measured[path] if path else None
    if isinstance(found, Calibration):
        return importance_of(found)
    return found


def _calibration(options: OutputOptions, measured: Mapping[Path, Measured]) -> Calibration | None:
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
        overrides=options.overrides,
        keep=options.keep,
        fallback=options.fallback,
        allow_nan=options.allow_nan,
    )
