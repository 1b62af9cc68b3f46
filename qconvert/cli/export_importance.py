"""`qconvert export` of a calibration: llama.cpp's importance matrix."""

from dataclasses import replace
from pathlib import Path

from qconvert.calibration.file import read_calibration
from qconvert.calibration.imatrix_write import imatrix_bytes, write_imatrix
from qconvert.calibration.importance import importance_of, reach_lines
from qconvert.cli import outcome, render
from qconvert.containers.place import check_output
from qconvert.containers.sizes import human_bytes
from qconvert.errors import UsageError


def to_imatrix(
    source: Path, output: Path | None, *, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    """Write the importance matrix of a calibration."""
    path = output or Path(f"{source.stem}-imatrix.gguf")
    check_output(path)
    if path.exists() and path.samefile(source):
        raise UsageError(f"{path} is the source itself", "name another file with -o")
    calibration = read_calibration(source)
    data = imatrix_bytes(calibration, path.suffix)
    lines = reach_lines(replace(importance_of(calibration), rare={}))
    for line in lines if not quiet else ():
        render.say(line)
    if not dry_run:
        write_imatrix(data, path)
    windows, window = calibration.sample.tokens.shape
    weights = len(calibration.by_weight)
    if as_json:
        counts = {"weights": weights, "tokens": windows * window, "bytes": len(data)}
        outcome.print_all([{"path": str(path), **counts, "notices": lines}])
    elif not quiet:
        render.show_path(f"would write {path}" if dry_run else path)
        size = f"{human_bytes(len(data))} ({len(data)} bytes)"
        render.show(f"{size}, {weights} weights, {windows} x {window} tokens")
