"""`qconvert doctor`: what this machine can do, and what suits it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qconvert.cli import render
from qconvert.cli.devices import CONTEXT
from qconvert.containers.sizes import human_bytes

if TYPE_CHECKING:
    from qconvert.checkpoint import Checkpoint
    from qconvert.machine.advice import Fit, Size, Suited
    from qconvert.machine.types import Gpu, Machine, Processor

NEEDS = "needs the importance"
"""What the plan says of types that cannot be made without a calibration."""


def doctor(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A directory, a hub id or a GGUF file: say which types of it fit here.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="DEVICE", help="Of a phone, a pi or a laptop-8gb in place of this one."
        ),
    ] = None,
    context: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Tokens whose keys and values have to fit beside the weights."
        ),
    ] = CONTEXT,
    load: Annotated[
        bool, typer.Option("--load", help="Import the packages that take seconds, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show what this machine's processor, memory, GPUs and runtimes can do, and what suits it.

    The exit code is 1 where something that qconvert itself needs does not load.

    \b
    Examples:
      qconvert doctor
      qconvert doctor org/name
      qconvert doctor org/name --for phone --context 8192
      qconvert doctor --json | jq .broken
    """
    from qconvert.cli.devices import find_device
    from qconvert.machine.advice import SMALL, fits, suited_types
    from qconvert.machine.devices import machine_of
    from qconvert.machine.look import look

    checkpoint = None
    if model:
        from qconvert.checkpoint.open import locate, open_path

        checkpoint = open_path(*locate(model, headers_only=True))
    target = None if device is None else find_device(device)
    if target is None:
        with render.waiting("loading what is installed"):
            machine = look(_places(), *_kernel_folders(), every=load)
    else:
        machine = machine_of(target)
    suited = suited_types(machine)
    fitting: tuple[Fit, ...] | None = None
    left_out: list[str] = []
    if checkpoint is not None:
        sizes, weights, cache, left_out = _sizes(checkpoint, context)
        ladder: tuple[str, ...] = ()
        if target is not None:
            ladder = target.small_ladder if weights < SMALL else target.ladder
        fitting = fits(machine, sizes, weights, cache, ladder)
    if as_json:
        render.print_json(_as_data(machine, suited, checkpoint, fitting, left_out))
    else:
        if target is None:
            _show(machine, suited)
        else:
            _show_device(machine, suited)
        if checkpoint is not None and fitting is not None:
            _show_fitting(machine, checkpoint, fitting, left_out)
    for runtime in machine.broken:
        why = runtime.detail or "it is not installed"
        render.say(f"qconvert needs {runtime.name}, which does not load: {why}")
    if machine.broken:
        raise typer.Exit(1)


def _places() -> dict[str, Path]:
    """Folders whose disks matter."""
    import tempfile

    from huggingface_hub.constants import HF_HUB_CACHE

    return {
        "this folder": Path.cwd(),
        "hub cache": Path(HF_HUB_CACHE),
        "temporary files": Path(tempfile.gettempdir()),
    }


def _kernel_folders() -> tuple[Path, Path]:
    """Of the sources, and of what is compiled of them."""
    import os

    from qconvert import kernels

    sources = Path(kernels.__file__).parent
    return sources, Path(os.environ.get("NUMBA_CACHE_DIR") or sources / "__pycache__")


def _sizes(checkpoint: "Checkpoint", context: int) -> "tuple[list[Size], int, int, list[str]]":
    """Of every type that can be planned from headers: sizes, weights, bytes of a context's keys
    and values, and what is left out."""
    from qconvert.errors import QconvertError
    from qconvert.inspection import look_at
    from qconvert.machine.advice import Size
    from qconvert.model.open import open_model
    from qconvert.model.shapes import cache_bytes
    from qconvert.plan.make import make_plan
    from qconvert.plan.recipe import Recipe
    from qconvert.plan.safetensors.schemes import LUT, SCHEMES

    found = look_at(checkpoint)
    sizes = [Size(plan.recipe.type, "gguf", plan.nbytes) for plan in found.plans]
    left_out = list(found.problems)
    for scheme in SCHEMES:
        if scheme in LUT:  # as large as the model itself
            continue
        try:
            plan = make_plan(open_model(checkpoint), Recipe(scheme))
            sizes.append(Size(scheme, "safetensors", plan.nbytes))
        except QconvertError as error:
            left_out.append(f"{scheme}: {error.message}")
    if not found.plans:
        return sizes, found.parameters, 0, left_out
    cache = cache_bytes(found.architecture, found.metadata, context)
    return sizes, found.parameters, cache, left_out


def _as_data(
    machine: "Machine",
    suited: "Sequence[Suited]",
    checkpoint: "Checkpoint | None",
    fitting: "Sequence[Fit] | None",
    left_out: Sequence[str],
) -> dict[str, Any]:
    data: dict[str, Any] = asdict(machine)
    data["cores"]["usable"] = machine.cores.usable
    for part in (*data["disks"], data["kernels"]):
        for key in {"path", "folder"} & part.keys():
            part[key] = str(part[key])
    data["broken"] = [runtime.name for runtime in machine.broken]
    data["suits"] = [asdict(one) for one in suited]
    if checkpoint is not None and fitting is not None:
        taken = next((fit for fit in fitting if fit.take), None)
        data["model"] = {
            "source": checkpoint.source,
            "types": [_fit_as_data(fit) for fit in fitting],
            "take": taken.size.type if taken else None,
            "reason": taken.reason if taken else "",
            "left_out": list(left_out),
        }
    return data


def _fit_as_data(fit: "Fit") -> dict[str, Any]:
    return {
        "type": fit.size.type,
        "container": fit.size.container,
        "bytes": fit.size.nbytes,
        "needs_bytes": fit.needs,
        "fits_memory": fit.memory,
        "fits_gpu": fit.gpu,
    }


def _show(machine: "Machine", suited: "Sequence[Suited]") -> None:
    render.print_table(("machine", ""), _machine_rows(machine).items())
    states = {
        "loads": "loads",
        "installed": "installed",
        "broken": "BROKEN",
        "missing": "not installed",
    }
    render.print_table(
        ("runtime", "version", "state", ""),
        [
            (one.name, one.version, states[one.state], _shortened(one.name, one.detail))
            for one in machine.runtimes
        ],
    )
    render.print_table(
        ("suits", "runtime", "on", "because"),
        [(kind.type, kind.runtime, kind.place, kind.reason) for kind in suited],
    )


def _show_device(machine: "Machine", suited: "Sequence[Suited]") -> None:
    memory = machine.memory
    told = {
        "device": machine.system,
        "memory": f"{human_bytes(memory.available)} for programs, of {human_bytes(memory.total)}",
        "has": ", ".join(machine.processor.features),
    }
    render.print_table(("device", ""), told.items())
    render.print_table(
        ("suits", "runtime", "because"), [(kind.type, kind.runtime, kind.reason) for kind in suited]
    )


def _machine_rows(machine: "Machine") -> dict[str, str]:
    cores, memory, kernels = machine.cores, machine.memory, machine.kernels
    rows = {
        "system": machine.system,
        "processor": _processor(machine.processor),
        "has": ", ".join(machine.processor.features) or "nothing that is known here",
        "has not": ", ".join(machine.processor.lacks) or "",
        "cores": f"{cores.usable} to use, of {cores.logical}"
        + (f" (limited to the time of {cores.quota:g})" if cores.quota else ""),
        "memory": f"{human_bytes(memory.available)} free of {human_bytes(memory.total)}"
        + (" (a container's limit)" if memory.limit else ""),
    }
    for disk in machine.disks:
        writable = "" if disk.writable else ", NOT WRITABLE"
        rows[f"disk, {disk.purpose}"] = f"{human_bytes(disk.free)} free{writable} ({disk.path})"
    for number, gpu in enumerate(machine.gpus):
        rows[f"GPU {number}"] = _gpu(gpu)
    if not machine.gpus:
        rows["GPU"] = "none that torch can use"
    kept = "" if kernels.writable else ", NOT WRITABLE: they are compiled again at each start"
    rows["kernels"] = f"{kernels.compiled} of {kernels.modules} compiled ({kernels.folder}){kept}"
    return {key: value for key, value in rows.items() if value}


def _processor(processor: "Processor") -> str:
    return f"{processor.name or 'unknown'}, {processor.architecture}"


def _gpu(gpu: "Gpu") -> str:
    text = f"{gpu.name}, {human_bytes(gpu.free)} free of {human_bytes(gpu.total)}"
    if gpu.capability:
        text += ", compute capability {}.{}".format(*gpu.capability)
    return text + (f": {', '.join(gpu.numbers)}" if gpu.numbers else "")


def _shortened(name: str, detail: str) -> str:
    """llama.cpp lists what it was compiled for as `AVX2 = 1 | FMA = 1`."""
    if name not in ("llama-cpp-python", "xllamacpp") or "=" not in detail:
        return detail
    items = [item.strip() for item in detail.replace(" : ", " | ").split("|")]
    used = [item.removesuffix("= 1").strip() for item in items if item.endswith("= 1")]
    return f"{detail.partition(';')[0]}; {', '.join(used)}"


def _show_fitting(
    machine: "Machine",
    checkpoint: "Checkpoint",
    fitting: "Sequence[Fit]",
    left_out: Sequence[str],
) -> None:
    columns = [">type", "container", ">size", ">needs in memory", "fits into memory"]
    rows = []
    for fit in fitting:
        answers = [fit.memory, *([fit.gpu] if machine.gpus else [])]
        sizes = [human_bytes(fit.size.nbytes), human_bytes(fit.needs)]
        marks = ["yes" if answer else "no" for answer in answers]
        mark = "<- take this" if fit.take else ""
        rows.append((fit.size.type, fit.size.container, *sizes, *marks, mark))
    render.print_table((*columns, *(["fits into a GPU"] if machine.gpus else []), ""), rows)
    taken = next((fit for fit in fitting if fit.take), None)
    if taken:
        render.show(f"of {checkpoint.source}, take {taken.size.type}: {taken.reason}")
    elif fitting:
        render.show(f"no type of {checkpoint.source} fits: a smaller model, or a smaller --context")
    for line in _grouped(left_out):
        render.say(line)


def _grouped(left_out: Sequence[str]) -> list[str]:
    """Types that want a calibration in one line."""
    wanting = [line.partition(":")[0] for line in left_out if NEEDS in line]
    lines = [line for line in left_out if NEEDS not in line]
    if wanting:
        lines.append(f"not shown, for they need a calibration: {', '.join(wanting)}")
    return lines
