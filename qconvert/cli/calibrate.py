"""`qconvert calibrate`: run a model over a sample of text and keep what its layers saw."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qconvert.cli import options, render
from qconvert.containers.place import check_output
from qconvert.errors import QconvertError, UsageError, shorten

if TYPE_CHECKING:
    from qconvert.calibration.capture import Captured
    from qconvert.checkpoint import Checkpoint
    from qconvert.plan.recipe import Recipe
    from qconvert.run.crew import Crew
    from qconvert.text.types import Sample


TOKENS, WINDOW = 65536, 512
"""Of a sample, if nothing else is said."""


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
    from qconvert.checkpoint import open_checkpoint
    from qconvert.forward.device import choose_device, choose_dtype
    from qconvert.plan.recipe import calibration_path
    from qconvert.run.crew import crew_of

    crew = crew_of(executor, threads, workers, address)
    if output is not None:
        check_output(output)
    place = choose_device(crew.device(device))
    choose_dtype(dtype, place)
    checkpoint = open_checkpoint(model, progress=False if quiet else None, adapter=adapter)
    path = output or calibration_path(checkpoint.source)
    if path.resolve() in {file.resolve() for file in checkpoint.files}:
        raise UsageError(f"{path} is the source itself", "name another file with -o")
    wanted = Wanted(tuple(data or ()), tokens, window, seed, place)
    sample = draw(checkpoint, path, wanted, quiet=quiet)
    made = run(checkpoint, path, sample, place, dtype, crew, quiet=quiet)
    show(made, as_json=as_json, quiet=quiet)


@dataclass(frozen=True)
class Wanted:
    """A sample that is asked for.

    Attributes:
        data: as `qconvert.text.sources` describes; nothing stands for "self".
        device: where a model runs that writes it.
    """

    data: tuple[str, ...]
    tokens: int
    window: int
    seed: int = 0
    device: str = "cpu"

    @property
    def is_written(self) -> bool:
        """Whether the model writes all of it, which takes long."""
        return set(self.data or ["self"]) == {"self"}


def draw(checkpoint: "Checkpoint", path: Path, wanted: Wanted, *, quiet: bool) -> "Sample":
    """The sample for the calibration at a path."""
    from qconvert.calibration.work import keep_sample
    from qconvert.text.sample import draw_sample

    lost = render.KEPT if wanted.is_written else render.ANEW
    with render.watching(quiet, "tokens", lost) as watcher:

        def drawn(kept: Path | None = None) -> "Sample":
            return draw_sample(
                wanted.data,
                checkpoint,
                tokens=wanted.tokens,
                window=wanted.window,
                seed=wanted.seed,
                watcher=watcher,
                device="cpu" if wanted.device == "mps" else wanted.device,
                kept=kept,
            )

        about = (wanted.tokens, wanted.window, wanted.seed, wanted.device)
        return keep_sample(checkpoint, path, about, drawn) if wanted.is_written else drawn()


def run(
    checkpoint: "Checkpoint",
    path: Path,
    sample: "Sample",
    device: str,
    dtype: str,
    crew: "Crew",
    *,
    quiet: bool,
) -> "Captured":
    """Run the model over a sample, and write the calibration."""
    from qconvert.calibration.capture import capture, visit_here
    from qconvert.run.visiting import visits_over

    with render.watching(quiet, "tokens") as watcher, crew.at_work(watcher) as workers:
        return capture(
            checkpoint,
            sample,
            path,
            device=device,
            dtype=dtype,
            threads=crew.cores,
            visits=visit_here if isinstance(workers, int) else visits_over(workers, crew.cores),
            watcher=watcher,
        )


def with_calibration(
    checkpoint: "Checkpoint",
    asked: tuple["Recipe", ...],
    data: list[str],
    device: str,
    crew: "Crew",
    *,
    dry_run: bool,
    quiet: bool,
) -> tuple["Recipe", ...]:
    """The outputs with a calibration that is beside the first of them, and made if it is not."""
    from dataclasses import replace

    from qconvert.plan.recipe import calibration_path

    if any(one.calibration for one in asked):
        raise UsageError("-c names a calibration, and --calibrate makes one", "give one of them")
    place = asked[0].path(checkpoint.source).parent
    path = calibration_path(checkpoint.source, place)
    if dry_run and not path.exists():
        if not quiet:
            render.say(f"would calibrate first: {path}; types may need it, and it may change some")
        return asked
    if not dry_run:
        _ensure(checkpoint, path, tuple(data), device, crew, quiet=quiet)
    return tuple(replace(one, calibration=path) for one in asked)


def _ensure(
    checkpoint: "Checkpoint",
    path: Path,
    data: tuple[str, ...],
    device: str,
    crew: "Crew",
    *,
    quiet: bool,
) -> None:
    """Have a calibration at a path: the one that is there, if it is of this model and sample."""
    import numpy as np

    from qconvert.containers.place import check_place
    from qconvert.forward.device import choose_device
    from qconvert.model.open import open_model
    from qconvert.text.sample import WRITTEN

    place = choose_device(device)
    check_place(path)
    longest = open_model(checkpoint).config.get("max_position_embeddings")
    window = min(WINDOW, longest) if isinstance(longest, int) else WINDOW
    wanted = Wanted(data, TOKENS, window, device=place)
    found = _found(checkpoint, path)
    is_there = found is not None and wanted.is_written and found.source == WRITTEN
    if not is_there:
        sample = draw(checkpoint, path, wanted, quiet=quiet)
        is_there = found is not None and np.array_equal(found.tokens, sample.tokens)
    if not is_there:
        run(checkpoint, path, sample, place, "auto", crew, quiet=quiet)
    elif not quiet:
        render.say(f"up to date: {path}")


def _found(checkpoint: "Checkpoint", path: Path) -> "Sample | None":
    """The sample of a calibration of this model that is there."""
    from qconvert.calibration.file import check_calibration, read_calibration

    try:
        found = read_calibration(path)
        check_calibration(found, checkpoint)
    except QconvertError:
        return None
    return found.sample


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
