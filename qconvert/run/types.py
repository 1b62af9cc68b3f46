"""How the model is run, where an output takes that."""

from dataclasses import dataclass

from qconvert.machine.watcher import Watcher


@dataclass(frozen=True)
class Run:
    """How the model is run, where a plan needs that.

    Attributes:
        threads: cores to use.
        device: "auto", "cpu", "cuda" or "mps".
        force: replace what is where an output goes.
        dry: only plan: nothing stays on the disk, and what does not decide sizes is left out.
    """

    threads: int
    watcher: Watcher
    device: str = "auto"
    dry: bool = False
    force: bool = False
