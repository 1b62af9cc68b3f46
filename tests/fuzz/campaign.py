"""Damage files and read them: `python tests/fuzz/campaign.py 20000`, which is `make fuzz`.

A reader has to end well or in a `QconvertError`, soon, in bounded memory, and with nothing in its
message that a terminal would obey. Seeds are fixed: mutation N of a reader is always the same.
"""

import random
import resource
import signal
import sys
import tempfile
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time

sys.path.insert(0, str(Path(__file__).parents[1]))
from fuzz.readers import Reader, readers

from qconvert.cli.render import LONGEST_ERROR, capped, printable
from qconvert.errors import QconvertError

SECONDS, STUCK = 5.0, 60
"""Of computing for one file, and after how many it is stopped."""
MEMORY = 400 << 20
"""Bytes that one file may add to the highest mark."""


@dataclass
class Tally:
    """What became of a reader's mutants."""

    read: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


class StuckError(BaseException):
    """It does not end."""


def run(total: int, folder: Path) -> dict[str, Tally]:
    """So many mutations, over all readers by their shares."""
    found = list(readers(folder))
    shares = sum(reader.share for reader in found)
    return {one.name: attack(one, max(1, round(total * one.share / shares))) for one in found}


def attack(reader: Reader, count: int) -> Tally:
    whole, tally = reader.path.read_bytes(), Tally()
    fault = _fault(reader, tally)
    if fault or tally.refused:
        return Tally(faults=[f"{reader.name}: the sound file is refused: {fault}"])
    tally.read = 0
    for seed in range(count):
        r = random.Random(zlib.crc32(reader.name.encode()) + seed)
        data = reader.mutate(r, whole)
        reader.path.write_bytes(data)
        fault = _fault(reader, tally)
        if fault:
            tally.faults.append(f"{reader.name}, mutation {seed}: {fault}")
    reader.path.write_bytes(whole)
    return tally


def _fault(reader: Reader, tally: Tally) -> str:
    start, mark = process_time(), _peak()
    try:
        with _stopped():
            reader.read()
        tally.read += 1
    except QconvertError as error:
        tally.refused += 1
        shown = printable(capped(f"{error.message} {error.hint}", LONGEST_ERROR))
        if not shown.replace("\n", "").isprintable():
            return f"a message that is not clean: {shown!r}"
    except (Exception, StuckError):
        return traceback.format_exc(limit=-3)
    if process_time() - start > SECONDS:
        return f"{process_time() - start:.1f} seconds"
    return f"{_peak() - mark} bytes" if _peak() - mark > MEMORY else ""


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextmanager
def _stopped() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise StuckError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(STUCK)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="qconvert-fuzz-") as folder:
        tallies = run(int(sys.argv[1]), Path(folder))
    for name, tally in tallies.items():
        print(
            f"{name:28} {tally.read:6} read {tally.refused:6} refused {len(tally.faults):4} faults"
        )
    faults = [fault for tally in tallies.values() for fault in tally.faults]
    total = sum(tally.read + tally.refused for tally in tallies.values()) + len(faults)
    print(f"{total} mutations, {len(faults)} faults")
    print("\n".join(faults))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
