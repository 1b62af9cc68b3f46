"""`qconvert doctor`: what this machine can do, and what suits it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qconvert.api.devices import CONTEXT
from qconvert.cli import render
from qconvert.containers.sizes import human_bytes

if TYPE_CHECKING:
    from qconvert.api.examining import Diagnosis
    from qconvert.machine.advice import Fit, Suited
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
    from qconvert import api

    with render.waiting("looking at the machine"):
        found = api.doctor(model, device=device, context=context, load=load)
    if as_json:
        render.print_json(_as_data(found))
    else:
        if device is None:
            _show(found.machine, found.suited)
        else:
            _show_device(found.machine, found.suited)
        if found.source is not None:
            _show_fitting(found)
    for runtime in found.machine.broken:
        why = runtime.detail or "it is not installed"
        render.say(f"qconvert needs {runtime.name}, which does not load: {why}")
    if found.machine.broken:
        raise typer.Exit(1)


def _as_data(found: "Diagnosis") -> dict[str, Any]:
    machine = found.machine
    data: dict[str, Any] = asdict(machine)
    data["cores"]["usable"] = machine.cores.usable
    for part in (*data["disks"], data["kernels"]):
        for key in {"path", "folder"} & part.keys():
            part[key] = str(part[key])
    data["broken"] = [runtime.name for runtime in machine.broken]
    data["suits"] = [asdict(one) for one in found.suited]
    if found.source is not None:
        data["model"] = {
            "source": found.source,
            "types": [_fit_as_data(fit) for fit in found.fits],
            "take": found.taken.size.type if found.taken else None,
            "reason": found.taken.reason if found.taken else "",
            "left_out": list(found.left_out),
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


def _show_fitting(found: "Diagnosis") -> None:
    gpus = bool(found.machine.gpus)
    columns = [">type", "container", ">size", ">needs in memory", "fits into memory"]
    rows = []
    for fit in found.fits:
        answers = [fit.memory, *([fit.gpu] if gpus else [])]
        sizes = [human_bytes(fit.size.nbytes), human_bytes(fit.needs)]
        marks = ["yes" if answer else "no" for answer in answers]
        mark = "<- take this" if fit.take else ""
        rows.append((fit.size.type, fit.size.container, *sizes, *marks, mark))
    render.print_table((*columns, *(["fits into a GPU"] if gpus else []), ""), rows)
    taken = found.taken
    if taken:
        render.show(f"of {found.source}, take {taken.size.type}: {taken.reason}")
    elif found.fits:
        render.show(f"no type of {found.source} fits: a smaller model, or a smaller --context")
    for line in _grouped(found.left_out):
        render.say(line)


def _grouped(left_out: Sequence[str]) -> list[str]:
    """Types that want a calibration in one line."""
    wanting = [line.partition(":")[0] for line in left_out if NEEDS in line]
    lines = [line for line in left_out if NEEDS not in line]
    if wanting:
        lines.append(f"not shown, for they need a calibration: {', '.join(wanting)}")
    return lines
