"""`qconvert inspect`: what something is, told from its headers."""

from pathlib import Path
from typing import Annotated

import typer

from qconvert.cli import inspect_calibration, inspect_checkpoint, inspect_quantized, options
from qconvert.cli.quantize import complete_type
from qconvert.errors import UsageError


def inspect(
    model: options.Model,
    cache_dir: options.CacheDir = None,
    as_json: options.Json = False,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="List every tensor, or every input of a calibration.")
    ] = False,
    type_: Annotated[
        str | None,
        typer.Option(
            "--type",
            "-t",
            metavar="TYPE",
            help="Only this type of GGUF file or scheme of safetensors, in detail.",
            autocompletion=complete_type,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw a calibration: a .png or .svg file."),
    ] = None,
) -> None:
    """Show what MODEL is, and what each file type would weigh.

    Reads headers and a few rows, on the hub headers alone. MODEL may also be what `quantize`,
    `calibrate` and `export` have written: a GGUF file, a directory of quantized safetensors, a
    calibration, an importance matrix.

    \b
    Examples:
      qconvert inspect org/name
      qconvert inspect ./model --json | jq .parameters
      qconvert inspect ./model -t w4a16
      qconvert inspect model.calib.safetensors --plot model.svg
    """
    from qconvert.checkpoint.open import locate
    from qconvert.inspection.identify import identify

    form = inspect_calibration.plot_form(plot) if plot else None
    source, path = locate(model, headers_only=True)
    kind = identify(path)
    if form and kind != "calibration":
        raise UsageError(f"{model} is no calibration, and --plot draws these", "leave it out")
    if type_ and kind != "checkpoint":
        raise UsageError(f"--type is for models, and {model} is none to be quantized")
    if kind == "checkpoint":
        inspect_checkpoint.show(source, path, type_, as_json=as_json, tensors=tensors)
    elif kind == "calibration":
        inspect_calibration.show(path, plot, as_json=as_json, inputs=tensors)
    elif kind == "importance":
        inspect_calibration.show_importance(path, as_json=as_json, entries=tensors)
    elif kind == "quantized":
        inspect_quantized.show(source, path, as_json=as_json, tensors=tensors)
    else:
        inspect_quantized.show_tensors_alone(source, path, as_json=as_json, tensors=tensors)
