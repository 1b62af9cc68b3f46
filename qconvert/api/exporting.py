"""The same weights in the other container."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qconvert.api.types import SILENT, Size, Where, bytes_of, opened, run_of, to_hub
from qconvert.errors import UsageError
from qconvert.machine.watcher import Silent, Watcher

if TYPE_CHECKING:
    from qconvert.calibration.imatrix_write import Matrix
    from qconvert.checkpoint import Checkpoint
    from qconvert.plan.recipe import Recipe
    from qconvert.plan.types import Plan
    from qconvert.run.adapter_file import Written
    from qconvert.run.stream import Result

AUTO = "auto"
CHOICES = (AUTO, "f32", "f16", "bf16")
OF_MMPROJ = (*CHOICES, "q8_0")


def export(
    model: Where,
    output: Where | None = None,
    *,
    dtype: Literal["auto", "f32", "f16", "bf16", "q8_0"] = "auto",
    mmproj: bool = False,
    split_max_size: Size | None = None,
    max_shard_size: Size | None = None,
    ignore: Sequence[str] = (),
    vocabulary: bool = True,
    allow_nan: bool = False,
    threads: int | None = None,
    adapter: Where | None = None,
    base: str | None = None,
    push: str | None = None,
    public: bool = False,
    force: bool = False,
    dry_run: bool = False,
    watcher: Watcher = SILENT,
) -> "Result | Matrix | Written":
    """Change the container and keep the weights: a directory becomes a GGUF file, a GGUF file a
    directory. A calibration becomes an importance matrix, and an adapter of PEFT's a file of LoRA,
    both as llama.cpp takes them.

    Args:
        output: a .gguf file, or a directory; by default named after the model, in this folder.
        dtype: of all weights; "auto" is the type that holds the source's, and "q8_0" is for
            `mmproj` alone.
        mmproj: of a model that reads images, the part that does, as llama.cpp takes it beside the
            language model.
        base: of an adapter, its model; None takes the one that it names.
        push: a repository of the hub that gets it too; `public` if it is made for that.
        force: replace what is there and is something else.
        dry_run: only say what it would be.

    Raises:
        As `quantize`.
    """
    from qconvert.api.writing import write
    from qconvert.plan.recipe import Recipe
    from qconvert.run.crew import Crew

    choices = OF_MMPROJ if mmproj else CHOICES
    if dtype.lower() not in choices:
        other = "; `qconvert quantize` makes models of other types" if not mmproj else ""
        raise UsageError(f"{dtype!r} is no dtype", f"choose {', '.join(choices)}{other}")
    split = bytes_of(split_max_size, "--split-max-size")
    shard = bytes_of(max_shard_size, "--max-shard-size")
    source, named = Path(model), None if output is None else Path(output)
    is_adapter = _is_adapter(source, base)
    if is_adapter or _is_calibration(source):
        if mmproj:
            raise UsageError(f"{model} is no model, and --mmproj is for these", "leave it out")
        if is_adapter:
            return _to_lora(source, base, named, watcher, force=force, dry_run=dry_run)
        if dtype != AUTO or split is not None or shard is not None or not vocabulary or ignore:
            raise UsageError(
                "--dtype, --ignore, --no-vocabulary and sizes of parts are for models, and this "
                "is a calibration",
                "leave them out",
            )
        return _to_imatrix(source, named, watcher, dry_run=dry_run)
    if base is not None:
        raise UsageError("--base is for an adapter, and this is a model", "leave it out")
    place, repo = to_hub(output, push, public)
    recipe = Recipe(
        dtype.lower(),
        output=None if place is None else Path(place),
        allow_nan=allow_nan,
        ignore=tuple(ignore),
        vocabulary=vocabulary,
        split_max_size=split,
        max_shard_size=shard,
    )
    if mmproj:
        _check_mmproj(recipe)
    checkpoint = opened(model, watcher, adapter, dry=dry_run or mmproj)
    plan = _planned(checkpoint, recipe, mmproj=mmproj)
    if mmproj and not dry_run:
        plan = _planned(_with_tower(plan, watcher, adapter), recipe, mmproj=True)
    run = replace(run_of(threads, watcher, dry=dry_run), force=force)
    return write([plan], Crew(threads=threads), run, repo, public=public)[0]


def _planned(checkpoint: "Checkpoint", recipe: "Recipe", *, mmproj: bool) -> "Plan":
    from qconvert.plan.recipe import model_name
    from qconvert.plan.safetensors.export import make_export_plan
    from qconvert.run.mmproj import plan_mmproj
    from qconvert.run.quantize import float_type, plan_outputs
    from qconvert.run.types import Run

    name, path = model_name(checkpoint.source), recipe.output
    if mmproj:
        return plan_mmproj(checkpoint, replace(recipe, output=path or Path(f"mmproj-{name}.gguf")))
    if checkpoint.container == "gguf":
        if recipe.split_max_size is not None or not recipe.vocabulary or recipe.ignore:
            raise UsageError(
                "--split-max-size, --ignore and --no-vocabulary are for GGUF files, and this "
                "becomes a directory",
                "leave them out; --max-shard-size is for directories",
            )
        path = path or Path(name)
        _check_directory(path)
        return make_export_plan(checkpoint, replace(recipe, output=path))
    if recipe.max_shard_size is not None:
        raise UsageError(
            "--max-shard-size is for directories, and this becomes a GGUF file",
            "use --split-max-size",
        )
    if path is not None:
        _check_file(path, ", which a Hugging Face checkpoint is exported to")
    if recipe.type == AUTO:
        recipe = replace(recipe, type=float_type(checkpoint.tensors.values()))
    return plan_outputs(checkpoint, [recipe], Run(1, Silent()))[0]


def _with_tower(plan: "Plan", watcher: Watcher, adapter: Where | None) -> "Checkpoint":
    """The planned checkpoint with all that the plan reads of it."""
    from qconvert.checkpoint.open import with_weights

    sources = {part.source for tensor in plan.tensors for part in tensor.map.parts}
    progress = False if isinstance(watcher, Silent) else None
    merged = None if adapter is None else Path(adapter)
    return with_weights(plan.checkpoint, sources, progress=progress, adapter=merged)


def _check_file(path: Path, why: str = "") -> None:
    from qconvert.containers.place import check_output

    check_output(path)
    if path.suffix != ".gguf":
        raise UsageError(f"{path} is no .gguf file{why}", "name a file that ends in .gguf with -o")


def _check_directory(path: Path) -> None:
    if str(path) == "-":
        raise UsageError("standard output cannot hold a directory", "name one with -o")
    if path.suffix == ".gguf" or path.is_file():
        raise UsageError(
            f"{path} is a file's name, and a GGUF file is exported to a directory",
            "name a directory with -o; `qconvert quantize` turns GGUF into GGUF",
        )
    if not path.name:
        raise UsageError(f"{path} cannot be the output", "name a new directory with -o")


def _check_mmproj(recipe: "Recipe") -> None:
    """Refuse what has no meaning for a vision part, before anything is fetched."""
    if recipe.split_max_size is not None or recipe.max_shard_size is not None:
        raise UsageError("llama.cpp reads a vision part from one file", "leave sizes of parts out")
    if not recipe.vocabulary:
        raise UsageError("a vision part has no vocabulary anyway", "leave --no-vocabulary out")
    if recipe.output is not None:
        _check_file(recipe.output)


def _is_calibration(path: Path) -> bool:
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    from qconvert.inspection.identify import identify

    return identify(path) == "calibration"


def _is_adapter(path: Path, base: str | None) -> bool:
    """Of a directory that holds a model besides, --base says which of the two is meant."""
    from qconvert.checkpoint.foreign import ADAPTER

    alone = base is not None or not (path / "config.json").exists()
    return (path / ADAPTER).is_file() and alone


def _to_imatrix(source: Path, output: Path | None, watcher: Watcher, *, dry_run: bool) -> "Matrix":
    """Write the importance matrix of a calibration."""
    from qconvert.calibration.file import read_calibration
    from qconvert.calibration.imatrix_write import Matrix, imatrix_bytes, write_imatrix
    from qconvert.calibration.importance import importance_of, reach_lines
    from qconvert.containers.place import check_output

    path = output or Path(f"{source.stem}-imatrix.gguf")
    check_output(path)
    if path.exists() and path.samefile(source):
        raise UsageError(f"{path} is the source itself", "name another file with -o")
    calibration = read_calibration(source)
    data = imatrix_bytes(calibration, path.suffix)
    lines = tuple(reach_lines(replace(importance_of(calibration), rare={})))
    for line in lines:
        watcher.note(line)
    if not dry_run:
        write_imatrix(data, path)
    windows, window = calibration.sample.tokens.shape
    return Matrix(path, len(data), len(calibration.by_weight), windows, window, lines)


def _to_lora(
    source: Path,
    base: str | None,
    output: Path | None,
    watcher: Watcher,
    *,
    force: bool,
    dry_run: bool,
) -> "Written":
    """Write an adapter as llama.cpp takes it beside a model."""
    from qconvert.checkpoint.adapter import read_adapter
    from qconvert.checkpoint.foreign import ADAPTER
    from qconvert.model.open import open_model
    from qconvert.run.adapter_file import Written, check_can_be_written, write_adapter

    path = output or Path(f"{source.resolve().name}-lora.gguf")
    _check_file(path)
    if path.exists() and not force:
        raise UsageError(f"{path} exists", "--force replaces it; or name another file with -o")
    adapter = read_adapter(source)
    check_can_be_written(adapter)
    name = base or adapter.base
    if not name:
        raise UsageError(f"{source} does not say what it was trained for", "name it with --base")
    both = source if (Path(name) / ADAPTER).is_file() else None
    model = open_model(opened(name, watcher, both, dry=True))
    return Written(path, 0, 0, 0, 0.0) if dry_run else write_adapter(model, adapter, path)
