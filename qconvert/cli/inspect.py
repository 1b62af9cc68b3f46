"""`qconvert inspect`: what something is, told from its headers."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from qconvert.cli import (
    inspect_calibration,
    inspect_checkpoint,
    inspect_quantized,
    options,
    render,
)
from qconvert.cli.quantize import complete_type
from qconvert.errors import UsageError


def inspect(
    model: options.Model,
    adapter: options.Adapter = None,
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
    from qconvert import api
    from qconvert.calibration.importance import Importance
    from qconvert.calibration.overview import Overview
    from qconvert.inspection import Inspection
    from qconvert.inspection.quantized import Quantized

    if plot is not None:
        inspect_calibration.plot_form(plot)
    found = api.inspect(model, None if type_ is None else [type_], adapter=adapter)
    if plot is not None and not isinstance(found, Overview):
        raise UsageError(f"{model} is no calibration, and --plot draws these", "leave it out")
    if isinstance(found, Inspection):
        data, show = (
            inspect_checkpoint.as_data(found),
            partial(inspect_checkpoint.show, found, type_),
        )
    elif isinstance(found, Overview):
        data = inspect_calibration.as_data(found, plot)
        show = partial(inspect_calibration.show, found, plot=plot)
        if plot is not None:
            inspect_calibration.write_plot(found, plot)
    elif isinstance(found, Importance):
        data = inspect_calibration.importance_as_data(found)
        show = partial(inspect_calibration.show_importance, found)
    elif isinstance(found, Quantized):
        data, show = inspect_quantized.as_data(found), partial(inspect_quantized.show, found)
    else:
        data = inspect_quantized.alone_as_data(found)
        show = partial(inspect_quantized.show_alone, found)
    if as_json:
        render.print_json(data)
    else:
        show(tensors)
