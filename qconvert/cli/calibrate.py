"""`qconvert calibrate`: run a model over a sample of text and keep what its layers saw."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qconvert.api.types import TOKENS, WINDOW
from qconvert.cli import options, render
from qconvert.errors import shorten

if TYPE_CHECKING:
    from qconvert.calibration.capture import Captured


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
    ] = TOKENS,
    window: options.Window = WINDOW,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the draw.")] = 0,
    device: options.Device = "auto",
    dtype: Annotated[
        str,
        typer.Option(metavar="TYPE", help="auto, bf16, f32 or f16, of matrix products."),
    ] = "auto",
    threads: options.Cores = None,
    executor: options.Executor = "threads",
    workers: options.RayWorkers = None,
    address: options.Address = None,
    adapter: options.Adapter = None,
    cache_dir: options.CacheDir = None,
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
    from qconvert import api

    with render.watching(quiet, "tokens") as watcher:
        made = api.calibrate(
            model,
            output,
            data=data or (),
            tokens=tokens,
            window=window,
            seed=seed,
            adapter=adapter,
            device=device,
            dtype=dtype,
            threads=threads,
            executor=executor,
            workers=workers,
            address=address,
            watcher=watcher,
        )
    show(made, as_json=as_json, quiet=quiet)


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
