"""What a model's layers see of a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qconvert.api.types import SILENT, Where, opened
from qconvert.machine.watcher import Watcher

if TYPE_CHECKING:
    from qconvert.calibration.capture import Captured


def calibrate(
    model: Where,
    output: Where | None = None,
    *,
    data: Where | Sequence[str] = (),
    tokens: int = 65536,
    window: int = 512,
    seed: int = 0,
    adapter: Where | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    watcher: Watcher = SILENT,
) -> "Captured":
    """Run a model over a sample of text, and write what its layers saw.

    Args:
        output: the file; by default NAME.calib.safetensors in this folder.
        data: a text, or several, as the command takes them; without one the model writes its own.

    Raises:
        UsageError, CheckpointError, HubError: the text cannot be had, or is too short.
        UnsupportedError: the model cannot be run here.
        OutputError: the file cannot be written.
    """
    from qconvert.calibration.capture import capture
    from qconvert.forward.device import choose_device
    from qconvert.plan.recipe import calibration_path
    from qconvert.run.executor import default_threads
    from qconvert.text.sample import draw_sample

    place = choose_device(device)
    checkpoint = opened(model, watcher, adapter)
    named = [str(data)] if isinstance(data, str | Path) else [str(one) for one in data]
    sample = draw_sample(
        named,
        checkpoint,
        tokens=tokens,
        window=window,
        seed=seed,
        watcher=watcher,
        device="cpu" if place == "mps" else place,
    )
    return capture(
        checkpoint,
        sample,
        calibration_path(checkpoint.source) if output is None else Path(output),
        device=place,
        dtype=dtype,
        threads=threads or default_threads(),
        watcher=watcher,
    )
