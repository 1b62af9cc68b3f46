"""Outputs of one checkpoint, GGUF files and directories, written side by side.

A directory appears when all of its files are there: the shards of weights, streamed by the
pipeline, and the small files beside them, which are made before a weight is read.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from qconvert.checkpoint import Checkpoint
from qconvert.containers import gguf, safetensors
from qconvert.containers.directory import PartialDirectory
from qconvert.containers.safetensors import INDEX_NAME, index_json
from qconvert.machine.watcher import Watcher
from qconvert.run.stream import write_files
from qconvert.run.work import Result, Tensor, Work

MAX_SHARD_SIZE = 5_000_000_000


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file, or its shards.

    Attributes:
        files: the file, or the shards in their order.
    """

    checkpoint: Checkpoint
    tensors: Sequence[Tensor]
    files: Sequence[gguf.Shard]
    allow_nan: bool = False

    @property
    def path(self) -> Path:
        """The (first) file."""
        return self.files[0].path

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file."""
        return tuple(file.path for file in self.files)


@dataclass(frozen=True)
class Directory:
    """A directory with safetensors.

    Attributes:
        slots: every tensor of the files, in the order in which shards are filled.
        metadata: for the header of each safetensors file; it names all that the weights depend
            on, so that an interrupted run is only taken up by the same one.
        files: the small files by name.
    """

    path: Path
    checkpoint: Checkpoint
    tensors: Sequence[Tensor]
    slots: Sequence[safetensors.Slot]
    metadata: Mapping[str, str]
    files: Mapping[str, bytes]
    max_shard_size: int = MAX_SHARD_SIZE
    allow_nan: bool = False

    def shards(self, folder: Path) -> tuple[safetensors.Shard, ...]:
        return safetensors.lay_out(folder, self.slots, self.metadata, self.max_shard_size)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file."""
        shards = self.shards(self.path)
        return tuple(
            self.path / name
            for name in (*(shard.path.name for shard in shards), *self.small_files(shards))
        )

    def small_files(self, shards: Sequence[safetensors.Shard]) -> dict[str, bytes]:
        """All files but the weights."""
        index = {INDEX_NAME: index_json(shards)} if len(shards) > 1 else {}
        return {**self.files, **index}


Output = GgufFile | Directory


def write_outputs(outputs: Sequence[Output], threads: int, watcher: Watcher) -> list[Result]:
    """Write outputs of the same checkpoint; a result for each.

    Args:
        threads: how many slabs are worked on at once.

    Raises:
        OutputError: something is there already, no room, or it cannot be written. What is done
            is used by the next run that wants the same.
        WeightError: a weight is NaN or infinite and that is not allowed, or too large for F16.
    """
    with ExitStack() as stack:
        works: list[Work] = []
        unfinished = []
        for output in outputs:
            if isinstance(output, Directory):
                directory = stack.enter_context(PartialDirectory(output.path))
                shards = output.shards(directory.folder)
                directory.keep_only({shard.path.name for shard in shards})
                small = output.small_files(shards)
                unfinished.append((len(works), directory, shards, small))
                files: Sequence[gguf.Shard] | Sequence[safetensors.Shard] = shards
            else:
                files = output.files
            works.append(Work(output.checkpoint, output.tensors, files, output.allow_nan))
        results = write_files(works, threads, watcher)
        for index, directory, shards, small in unfinished:
            for name, data in small.items():
                directory.write(name, data)
            directory.commit()
            names = [shard.path.name for shard in shards] + list(small)
            size = results[index].nbytes + sum(map(len, small.values()))
            paths = tuple(directory.path / name for name in names)
            results[index] = replace(results[index], paths=paths, nbytes=size)
    return results
