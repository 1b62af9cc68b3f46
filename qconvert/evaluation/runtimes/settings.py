"""Where and how a model is run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Where and how a model is run.

    Attributes:
        device: "auto", "cpu", "cuda" or "mps".
        dtype: of torch's matrix products: "f32", "bf16", "f16", or "auto": float32, so that
            rounding does not count as a difference.
        threads: on the CPU; None leaves it to the runtime.
        folder: for torch's hidden states; None takes the system's place for temporary files.
        progress: called with how many blocks of a model are done and how many there are, where
            it is run block by block.
        through: what takes a sample through the blocks, of `go_through`'s last arguments
            (`qconvert.run.visiting`); None does it in this process.
    """

    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    folder: Path | None = None
    progress: Callable[[int, int], None] | None = None
    through: Callable[..., None] | None = None

    @property
    def exact_dtype(self) -> str:
        """The type with "auto" resolved."""
        return "f32" if self.dtype == "auto" else self.dtype


DEFAULT = Settings()
