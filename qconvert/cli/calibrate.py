"""`qconvert calibrate`: run a model over a sample of text and keep what its layers saw."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qconvert.cli import options, render
from qconvert.errors import UsageError, shorten

if TYPE_CHECKING:
    from qconvert.calibration.capture import Captured
    from qconvert.text.types import Sample


def calibrate(
    model: options.Model,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="A .txt, .md, .jsonl, .parquet or .csv file, a data set of the hub, - for "
            "standard input, or self: the model writes its own sample (the default). Repeatable; "
            "TEXT:3 weighs three times as much.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file; by default NAME.calib.safetensors in this folder.",
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Tokens of the sample, at least.")
    ] = 65536,
    window: options.Window = 512,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the draw.")] = 0,
    device: options.Device = "auto",
    dtype: Annotated[
        str,
        typer.Option(metavar="TYPE", help="auto, bf16, f32 or f16, of matrix products."),
    ] = "auto",
    threads: options.Cores = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run MODEL over a sample of text and keep what quantizing it well needs to know.

    One block of the model is in memory at a time. An interrupted run is taken up again by the
    same command, and loses at most one block.

    \b
    Examples:
      qconvert calibrate ./SmolLM2-135M-Instruct --data notes.txt
      qconvert calibrate org/name --data chats.jsonl:3 --data book.txt -o calib.safetensors
      qconvert calibrate ./model --tokens 262144 --window 2048 --device cuda
      qconvert quantize ./model -c model.calib.safetensors -t q4_k_m -t w8a8
    """
    from qconvert.calibration.capture import capture
    from qconvert.calibration.work import keep_sample
    from qconvert.checkpoint import open_checkpoint
    from qconvert.containers.folder import check_place
    from qconvert.forward.device import choose_device, choose_dtype
    from qconvert.run.executor import default_threads
    from qconvert.text.sample import draw_sample

    if output is not None:
        options.check_output(output)
    place = choose_device(device)
    choose_dtype(dtype, place)
    checkpoint = open_checkpoint(model, progress=False if quiet else None)
    path = output or default_path(checkpoint.source)
    if path.resolve() in {file.resolve() for file in checkpoint.files}:
        raise UsageError(f"{path} is the source itself", "name another file with -o")
    check_place(path)
    writes_itself = set(data or ["self"]) == {"self"}
    with render.watching(quiet, "tokens", render.KEPT if writes_itself else render.ANEW) as watcher:

        def draw(kept: Path | None = None) -> "Sample":
            return draw_sample(
                data or (),
                checkpoint,
                tokens=tokens,
                window=window,
                seed=seed,
                watcher=watcher,
                device="cpu" if place == "mps" else place,
                kept=kept,
            )

        about = (tokens, window, seed, place)
        sample = keep_sample(checkpoint, path, about, draw) if writes_itself else draw()
    with render.watching(quiet, "tokens") as watcher:
        captured = capture(
            checkpoint,
            sample,
            path,
            device=place,
            dtype=dtype,
            threads=threads or default_threads(),
            watcher=watcher,
        )
    show(captured, as_json=as_json, quiet=quiet)


def default_path(source: str) -> Path:
    """NAME.calib.safetensors in the current directory."""
    from qconvert.plan.recipe import model_name

    return Path(f"{model_name(source)}.calib.safetensors")


def show(captured: "Captured", *, as_json: bool, quiet: bool) -> None:
    """The result, and experts that too few tokens reached."""
    from qconvert.calibration.capture import rare_experts
    from qconvert.calibration.types import FEW_TOKENS

    calibration = captured.calibration
    rare = rare_experts(calibration)
    if not quiet:
        for line in expert_lines(rare, FEW_TOKENS):
            render.say(line)
    windows, window = calibration.sample.tokens.shape
    if as_json:
        render.print_json(describe(captured, rare))
    elif not quiet:
        render.show_path(calibration.path)
        render.show(
            f"{windows * window} tokens in {windows} windows of {window}, "
            f"{len(calibration.by_weight)} layers in {captured.blocks} blocks, "
            f"{calibration.dtype} on {captured.device}, {captured.seconds:.1f} s"
        )


def expert_lines(rare: Mapping[str, Mapping[int, int]], threshold: int) -> list[str]:
    """Warnings that name experts which few tokens reached."""
    few = [f"{name}[{i}] ({count})" for name, one in rare.items() for i, count in one.items()]
    unseen = [f"{name}[{i}]" for name, one in rare.items() for i, count in one.items() if not count]
    lines = []
    if few:
        lines.append(f"fewer than {threshold} tokens reached {shorten(few)}: use more text")
    if unseen:
        lines.append(
            f"no token reached {shorten(unseen)}: the statistics of the whole layer stand "
            "in for them"
        )
    return lines


def describe(captured: "Captured", rare: Mapping[str, Mapping[int, int]]) -> dict[str, Any]:
    """The result for JSON."""
    calibration = captured.calibration
    windows, window = calibration.sample.tokens.shape
    experts = {
        name: one.count.tolist() for name, one in calibration.inputs.items() if one.matrices > 1
    }
    return {
        "path": str(calibration.path),
        "bytes": calibration.path.stat().st_size,
        "model": calibration.model,
        "fingerprint": calibration.fingerprint,
        "data": calibration.sample.source,
        "seed": calibration.sample.seed,
        "tokens": windows * window,
        "windows": windows,
        "window": window,
        "blocks": captured.blocks,
        "layers": len(calibration.by_weight),
        "dtype": calibration.dtype,
        "device": captured.device,
        "expert_tokens": experts,
        "rare_experts": [
            {"name": name, "expert": expert, "tokens": count}
            for name, one in rare.items()
            for expert, count in one.items()
        ],
        "seconds": round(captured.seconds, 3),
        "resumed_blocks": captured.resumed,
    }
