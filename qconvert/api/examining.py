"""What a machine can do, and what suits it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qconvert.api.devices import CONTEXT, find_device
from qconvert.api.types import Where

if TYPE_CHECKING:
    from qconvert.checkpoint import Checkpoint
    from qconvert.machine.advice import Fit, Size, Suited
    from qconvert.machine.types import Machine


@dataclass(frozen=True)
class Diagnosis:
    """A machine, and a model on it.

    Attributes:
        machine: processor, memory, GPUs, runtimes; what is broken of these.
        suited: types that suit it, the best first.
        source: the model; None where none was named.
        fits: its types, the largest first; one has `take`.
        left_out: types whose sizes are not known, and why.
    """

    machine: "Machine"
    suited: "tuple[Suited, ...]"
    source: str | None = None
    fits: "tuple[Fit, ...]" = ()
    left_out: tuple[str, ...] = ()

    @property
    def taken(self) -> "Fit | None":
        """The type to take."""
        return next((fit for fit in self.fits if fit.take), None)


def doctor(
    model: Where | None = None,
    *,
    device: str | None = None,
    context: int = CONTEXT,
    load: bool = False,
) -> Diagnosis:
    """Find out what a machine's processor, memory, GPUs and runtimes can do, and what suits it.

    Args:
        model: a directory, a hub id or a GGUF file: also say which types of it fit.
        device: "phone", "pi" or "laptop-8gb" in place of this machine; `--for` of the command.
        context: tokens whose keys and values have to fit beside the weights.
        load: import the packages that take seconds, too.

    Raises:
        UsageError: there is no such device.
        CheckpointError, HubError: the model cannot be had or read.
    """
    from qconvert.machine.advice import SMALL, fits, suited_types
    from qconvert.machine.devices import machine_of
    from qconvert.machine.look import look

    checkpoint = None
    if model is not None:
        from qconvert.checkpoint.open import locate, open_path

        checkpoint = open_path(*locate(str(model), headers_only=True))
    target = None if device is None else find_device(device)
    if target is None:
        machine = look(_places(), *_kernel_folders(), every=load)
    else:
        machine = machine_of(target)
    suited = suited_types(machine)
    if checkpoint is None:
        return Diagnosis(machine, suited)
    sizes, weights, cache, left_out = _sizes(checkpoint, context)
    ladder: tuple[str, ...] = ()
    if target is not None:
        ladder = target.small_ladder if weights < SMALL else target.ladder
    fitting = fits(machine, sizes, weights, cache, ladder)
    return Diagnosis(machine, suited, checkpoint.source, fitting, tuple(left_out))


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
