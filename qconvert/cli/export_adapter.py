"""`qconvert export` of an adapter: llama.cpp's file of it."""

from pathlib import Path

from qconvert.checkpoint import open_checkpoint
from qconvert.checkpoint.adapter import read_adapter
from qconvert.cli import outcome, render
from qconvert.containers.place import check_output
from qconvert.containers.sizes import human_bytes
from qconvert.errors import UsageError
from qconvert.model.open import open_model
from qconvert.run.adapter_file import check_can_be_written, write_adapter


def to_lora(
    source: Path,
    base: str | None,
    output: Path | None,
    *,
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write an adapter as llama.cpp takes it beside a model.

    Args:
        base: its model; None takes the one that the adapter names.
    """
    path = output or Path(f"{source.resolve().name}-lora.gguf")
    check_output(path)
    if path.suffix != ".gguf":
        raise UsageError(f"{path} is no .gguf file", "name a file that ends in .gguf with -o")
    if path.exists() and not force:
        raise UsageError(f"{path} exists", "--force replaces it; or name another file with -o")
    adapter = read_adapter(source)
    check_can_be_written(adapter)
    name = base or adapter.base
    if not name:
        raise UsageError(f"{source} does not say what it was trained for", "name it with --base")
    model = open_model(open_checkpoint(name, progress=False if quiet else None, headers_only=True))
    if dry_run:
        if not quiet:
            render.show_path(f"would write {path}")
        return
    made = write_adapter(model, adapter, path)
    if as_json:
        about = {"weights": made.weights, "rank": made.rank, "alpha": made.alpha}
        outcome.print_all([{"path": str(path), "bytes": made.nbytes, **about}])
    elif not quiet:
        render.show_path(path)
        size = f"{human_bytes(made.nbytes)} ({made.nbytes} bytes)"
        render.show(f"{size}, {made.weights} weights, rank {made.rank}, alpha {made.alpha:g}")
