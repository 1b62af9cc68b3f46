"""What the walk that smooths has found, kept until the output is written: an interrupted run goes
on behind the last finished block, and writes at once where all are.

    lock, identity           see `containers.folder`
    states-0, states-1       hidden states into and out of the block in work
    block-N.safetensors      statistics of its smoothed inputs, where ranges are stored
    block-N.json             alphas by joint; the block is finished when it is there
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from qconvert.calibration.file import FORMAT_VERSION, HISTOGRAM, read_inputs, write_inputs
from qconvert.calibration.types import InputStatistics
from qconvert.containers.folder import begin_anew, is_of
from qconvert.containers.whole import write_whole
from qconvert.errors import CheckpointError
from qconvert.forward.states import States

Found = tuple[Mapping[str, float], Sequence[InputStatistics]]
"""Of a block: the alphas of its joints by name, and what was seen of smoothed inputs."""


def keep(folder: Path, index: int, found: Found) -> None:
    """Say that a block is finished, whose output is on the disk.

    Raises:
        OutputError: it cannot be written.
    """
    alphas, seen = found
    path = _path(folder, index)
    if seen:
        described = {"format_version": FORMAT_VERSION, "histogram": HISTOGRAM}
        write_inputs(seen, path.with_suffix(".safetensors"), described, {})
    write_whole(path, json.dumps(alphas).encode())


def take_up(folder: Path, identity: str, states: States, blocks: int) -> list[Found]:
    """What an earlier run of the same command has found, block by block; what another left is
    removed."""
    paths = sorted(folder.glob("block-*.json"))
    is_whole = len(paths) == blocks or states.exist()
    if is_of(folder, identity) and is_whole:
        try:
            if paths == [_path(folder, index) for index in range(len(paths))]:
                return [_read(path) for path in paths]
        except (CheckpointError, OSError, ValueError, RecursionError):
            pass
    begin_anew(folder, identity)
    return []


def _read(path: Path) -> Found:
    alphas = json.loads(path.read_bytes())
    statistics = path.with_suffix(".safetensors")
    return alphas, read_inputs(statistics)[0] if statistics.exists() else []


def _path(folder: Path, index: int) -> Path:
    return folder / f"block-{index:05}.json"
