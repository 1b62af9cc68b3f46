"""A model in fewer bits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qconvert.api.types import SILENT, Options, Where, Work, bytes_of, opened, to_hub
from qconvert.errors import OutputError, UsageError
from qconvert.machine.watcher import Watcher

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qconvert.plan.recipe import Recipe
    from qconvert.plan.types import Plan
    from qconvert.run.stream import Result

ANY = "q8_0"
"""The type of a GGUF file with a budget, until its tensors' types are chosen."""

GROUP_SIZES = ("32", "64", "128", "channel")


def quantize(
    model: Where, type: str, output: Where | None = None, **work: "Unpack[Work]"
) -> "Result":
    """One output of `quantize_all`: write a model in fewer bits.

    Args:
        type: of a GGUF file, a scheme of safetensors, or a type of MLX.
        output: a .gguf file, or a folder; by default NAME-TYPE in this one.
    """
    return quantize_all(model, [type], output, **work)[0]


def plan_quantize(
    model: Where, type: str, output: Where | None = None, **work: "Unpack[Work]"
) -> "Plan":
    """What `quantize` would write, tensor by tensor. Nothing is written; with a budget the model
    runs. Arguments and errors are those of `quantize`."""
    return quantize_all(model, [type], output, dry_run=True, **work)[0].plan


def quantize_all(
    model: Where,
    type: Sequence[str] = (),
    output: Where | None = None,
    *,
    recipe: Where | None = None,
    save_recipe: Where | None = None,
    calibrate: Where | Sequence[Where] = (),
    adapter: Where | None = None,
    device: str = "auto",
    threads: int | None = None,
    executor: str = "threads",
    workers: int | None = None,
    address: str | None = None,
    push: str | None = None,
    public: bool = False,
    force: bool = False,
    dry_run: bool = False,
    watcher: Watcher = SILENT,
    **options: "Unpack[Options]",
) -> "tuple[Result, ...]":
    """Write a model in fewer bits, in several types at once; a result for each. What is there
    already and up to date is left.

    Args:
        model: a directory, a hub id or a GGUF file.
        type: of the outputs; among those of the recipe, if one is named.
        output: a .gguf file, or a folder; "hf://org/name" is that of `push`.
        recipe: a YAML file that says what the options do.
        save_recipe: where such a file is written.
        calibrate: calibrate first, on a text or several; "self" is written by the model.
        adapter: a directory of PEFT's, merged as the model is read.
        executor, workers, address: "ray" takes the workers of a cluster.
        push: a repository of the hub that gets the outputs too; `public` if it is made for that.
        force: replace what is there and is something else.
        dry_run: only plan; the results say what would be.
        options: see `Options`; a calibration is what `calibrate` wrote, or an importance matrix.

    Raises:
        UsageError: an option is not known, or does not fit.
        CheckpointError, HubError, UnsupportedError: the model cannot be had, read or converted.
        PlanError: what is asked for cannot be made of this model.
        WeightError: a weight is NaN or infinite.
        OutputError: it cannot be written, or something else is there.
    """
    from qconvert.api.calibrating import texts, with_calibration
    from qconvert.api.writing import write
    from qconvert.plan.recipe import placed
    from qconvert.run.crew import crew_of
    from qconvert.run.executor import default_threads
    from qconvert.run.quantize import plan_outputs
    from qconvert.run.types import Run

    place, repo = to_hub(output, push, public)
    given = checked(options)
    _check_budget(type, given)
    asked = placed(_asked(type, recipe, given), place)
    crew = crew_of(executor, threads, workers, address)
    device = crew.device(device)
    checkpoint = opened(model, watcher, adapter, dry=dry_run)
    run = Run(threads or default_threads(), watcher, device, dry_run, force)
    if calibrate:
        asked = with_calibration(checkpoint, asked, texts(calibrate), crew, run)
    plans = plan_outputs(checkpoint, asked, run)
    if save_recipe is not None:
        _save([one.recipe for one in plans], Path(save_recipe), checkpoint.source, watcher)
    return write(plans, crew, run, repo, public=public)


def checked(options: Options) -> dict[str, Any]:
    """What is given, as `Recipe` spells it.

    Raises:
        UsageError: an option or a value is not known.
    """
    from qconvert.algorithms.ranges import ESTIMATORS
    from qconvert.formats.safetensors.types import PERCENTILES
    from qconvert.plan.recipe import CACHE_TYPES, DEFAULTS

    given: dict[str, Any] = dict(options)
    if isinstance(pairs := given.pop("override", ()) or (), Mapping):
        pairs = pairs.items()
    given["overrides"] = tuple(pairs)
    unknown = [name for name in given if name not in DEFAULTS]
    if unknown:
        raise UsageError(f"quantize has no option {unknown[0]}", f"choose {', '.join(DEFAULTS)}")
    given = {
        name: value
        for name, value in given.items()
        if value is not None and value != [] and value is not DEFAULTS[name]
    }
    choices: dict[str, Sequence[str]] = {
        "activations": ("dynamic", "static"),
        "strategy": ("tensor", "channel", "block"),
        "group_size": GROUP_SIZES,
        "weight_range": ESTIMATORS,
        "activation_range": ESTIMATORS,
        "kv": CACHE_TYPES,
    }
    for name in choices.keys() & given.keys():
        given[name] = _one_of(name, str(given[name]), choices[name])
    for name in {"under", "split_max_size", "max_shard_size"} & given.keys():
        given[name] = bytes_of(given[name], _option(name))
    for name in {"keep", "ignore"} & given.keys():
        given[name] = tuple(given[name])
    for name in {"calibration", "importance"} & given.keys():
        given[name] = Path(given[name])
    if given.get("group_size", "channel") != "channel":
        given["group_size"] = int(given["group_size"])
    if "types" in given:
        from qconvert.plan.document import find_any

        given["types"] = tuple(find_any(name.strip()) for name in given["types"])
    low, high = PERCENTILES
    if "percentile" in given and not low < given["percentile"] <= high:
        raise UsageError(
            f"--percentile {given['percentile']:g} is out of range", "choose 99.9, 99.99 or so"
        )
    if given.get("smooth", "auto") != "auto":
        given["smooth"] = _exponent(given["smooth"])
    return given


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _one_of(name: str, value: str, choices: Sequence[str]) -> str:
    if value.lower() not in choices:
        raise UsageError(
            f"{_option(name)} {value!r:.40} is not known", f"choose {', '.join(choices)}"
        )
    return value.lower()


def _exponent(value: float | str) -> float:
    from qconvert.algorithms.smooth import is_alpha

    try:
        alpha = float(value)
    except ValueError:
        alpha = -1.0
    if not is_alpha(alpha):
        raise UsageError(f"--smooth {value!r:.40} is no exponent", "choose 0 to 1, or auto")
    return alpha


def _asked(
    types: Sequence[str], recipe: Where | None, said: dict[str, Any]
) -> tuple["Recipe", ...]:
    """The outputs: those of the recipe, or one for each type, with what was said."""
    from qconvert.plan.recipe import Recipe, with_given
    from qconvert.plan.safetensors.schemes import find_types

    if recipe is None:
        names = types or ([ANY] if {"under", "bits"} & said.keys() else [])
        outputs = tuple(Recipe(name) for name in find_types(names))
    else:
        from qconvert.plan.document import options_of, read_document

        outputs = options_of(read_document(Path(recipe)), types)
    if not outputs:
        raise UsageError("no type is given", "name one with -t, as in '-t q4_k_m'")
    return with_given(outputs, said)


def _check_budget(types: Sequence[str], said: dict[str, Any]) -> None:
    from qconvert.plan.safetensors.schemes import is_scheme

    if "under" in said and "bits" in said:
        raise UsageError("--under and --bits are two budgets", "give one of them")
    wrong = [name for name in types if not is_scheme(name)]
    if {"under", "bits"} & said.keys() and wrong:
        raise UsageError(
            f"with a budget each tensor's type is chosen, so -t {wrong[0]:.40} has no meaning",
            f"name the types to choose among: --types {wrong[0]:.40},...",
        )


def _save(asked: Sequence["Recipe"], path: Path, source: str, watcher: Watcher) -> None:
    """Write the recipe, but not over another one."""
    from qconvert.checkpoint.files import file_size, read_bytes_at
    from qconvert.plan.saving import document_of, write_document

    text = write_document(document_of(asked), path.parent, [f"Written for {source}."])
    try:
        if path.exists() and read_bytes_at(path, 0, file_size(path)) != text.encode():
            raise UsageError(f"{path} exists and says something else", "name another file")
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    watcher.note(f"wrote {path}")
