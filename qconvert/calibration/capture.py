"""Run a model over a sample, block by block, and keep what its layers saw.

While it runs there is a folder `.NAME.partial` beside the output:

    lock                   held by the run that works there
    identity               of model, tokens, type, device and version
    sample.npz             a sample that took long to make
    states-0, states-1     hidden states into and out of the block in work
    block-N.safetensors    the statistics of a finished block

A block counts as finished when its statistics have their name; then its output is on the disk.
So the next run of the same command goes on with the block that was interrupted.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np

from qconvert import __version__
from qconvert.calibration.file import (
    FORMAT_VERSION,
    HISTOGRAM,
    read_inputs,
    write_calibration,
    write_inputs,
)
from qconvert.calibration.statistics import Collector
from qconvert.calibration.types import FEW_TOKENS, Calibration, InputStatistics
from qconvert.calibration.work import SAMPLE
from qconvert.checkpoint import Checkpoint
from qconvert.containers.folder import begin_anew, is_of, open_folder
from qconvert.errors import CheckpointError
from qconvert.forward.states import States
from qconvert.forward.walk import Place, Walk
from qconvert.machine.watcher import Watcher
from qconvert.model.open import open_model
from qconvert.text.types import Sample

TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class Captured:
    """What a run gave.

    Attributes:
        calibration: as it was written.
        blocks: of the model.
        resumed: how many of them an earlier run had finished.
        device: "cpu", "cuda" or "mps".
        seconds: of this run.
    """

    calibration: Calibration
    blocks: int
    resumed: int
    device: str
    seconds: float


Visits = Callable[
    [Walk, Collector, Callable[[int, int], None], Callable[[], None]],
    Iterator[tuple[int, Mapping[str, int]]],
]
"""Takes the sample through the blocks, from the walk's first on: shows the collector what goes into
their weights, and gives each block's number, and how many matrices its weights have, when its
output is on the disk. Tells the third of a block's windows that are done; calls the fourth before
hidden states of the block before are lost."""


def visit_here(
    walk: Walk,
    collector: Collector,
    advance: Callable[[int, int], None],
    before_write: Callable[[], None],
) -> Iterator[tuple[int, Mapping[str, int]]]:
    """One block after the other, in this process."""
    for block in walk:
        block.run(collector.observe, partial(advance, block.index), before_write)
        yield block.index, block.matrices


def capture(
    checkpoint: Checkpoint,
    sample: Sample,
    path: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int = 1,
    batch: int | None = None,
    visits: Visits = visit_here,
    watcher: Watcher,
) -> Captured:
    """Make a calibration file.

    Args:
        path: of the file; what is there is replaced when the run is complete.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: of matrix products: "auto", "bf16", "f32" or "f16".
        threads: on the CPU.
        batch: windows at once; None chooses.
        visits: how the sample gets through the blocks.

    Raises:
        UnsupportedError: transformers or this program does not know the family.
        PlanError: weights are missing, or the model has no such positions.
        WeightError: NaN or infinity in the activations.
        OutputError: no room, or another run works on the same file.
    """
    started = time.monotonic()
    with open_folder(path) as folder:
        walk = Walk(
            open_model(checkpoint), sample.tokens, Place(folder, device, dtype, threads, batch)
        )
        done = _take_up(folder, walk.identity, walk.states)
        # Before the walk does it, which does not know that there is an -o.
        walk.states.create("make room, choose another place with -o, or use fewer --tokens")
        walk.begin = len(done)
        watcher.begin(len(walk) * sample.tokens.size, len(done) * sample.tokens.size)
        with Collector(threads) as collector, ThreadPoolExecutor(1) as saver:
            done.extend(_run(walk, folder, visits, collector, saver, watcher))
            walk.finish(collector.observe)
            rest = collector.take({})
        inputs = {one.weights[0]: one for found in (*done, rest) for one in found}
        calibration = Calibration(
            path,
            sample,
            inputs,
            checkpoint.source,
            walk.model.fingerprint,
            tokenizer_hash(checkpoint),
            __version__,
            walk.dtype,
        )
        write_calibration(calibration, path)
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - started
    return Captured(calibration, len(walk), walk.begin, walk.device, seconds)


def _run(
    walk: Walk,
    folder: Path,
    visits: Visits,
    collector: Collector,
    saver: ThreadPoolExecutor,
    watcher: Watcher,
) -> Iterator[list[InputStatistics]]:
    """Block by block; statistics are saved while the next block begins."""
    saving: Future[None] | None = None
    window = walk.tokens.shape[1]

    def advance(block: int, windows: int) -> None:
        watcher.advance(windows * window, f"block {block + 1} of {len(walk)}")

    def before_write() -> None:
        if saving:
            saving.result()

    for index, matrices in visits(walk, collector, advance, before_write):
        found = collector.take(matrices)
        saving = saver.submit(_save, walk, folder, index, found)
        yield found
    if saving:
        saving.result()


def _save(walk: Walk, folder: Path, index: int, found: list[InputStatistics]) -> None:
    """First the block's output, then the statistics that vouch for it."""
    walk.states.sync(index + 1)
    described = {"format_version": FORMAT_VERSION, "histogram": HISTOGRAM}
    write_inputs(found, _block_path(folder, index), described, {})


def _block_path(folder: Path, index: int) -> Path:
    return folder / f"block-{index:05}.safetensors"


def _take_up(folder: Path, identity: str, states: States) -> list[list[InputStatistics]]:
    """The statistics of the blocks that an earlier run of the same command has finished; what
    another command left, or a damaged one, is removed.

    Only the state behind the last finished block is kept on the disk, so where its statistics
    cannot be read, there is no block to go on with.
    """
    try:
        if is_of(folder, identity) and states.exist():
            paths = sorted(folder.glob("block-*.safetensors"))
            if paths == [_block_path(folder, index) for index in range(len(paths))]:
                return [read_inputs(path)[0] for path in paths]
    except (CheckpointError, ValueError):
        pass
    begin_anew(folder, identity, keep=(SAMPLE,))
    return []


def tokenizer_hash(checkpoint: Checkpoint) -> str:
    """SHA-256 over the names and contents of the tokenizer's files; empty where there are none."""
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if checkpoint.container != "huggingface" or not files:
        return ""
    digest = sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def rare_experts(calibration: Calibration) -> dict[str, dict[int, int]]:
    """Experts that fewer than FEW_TOKENS tokens reached: by the first weight of their input, the
    expert's number and its tokens."""
    found = {}
    for name, one in calibration.inputs.items():
        few = np.flatnonzero(one.count < FEW_TOKENS) if one.matrices > 1 else ()
        if len(few):
            found[name] = {int(expert): int(one.count[expert]) for expert in few}
    return found
