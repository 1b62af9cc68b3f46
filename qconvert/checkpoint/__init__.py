"""Checkpoints: Hugging Face directories, hub ids and GGUF files behind one type."""

from qconvert.checkpoint.fingerprint import fingerprint
from qconvert.checkpoint.open import open_checkpoint
from qconvert.checkpoint.rows import read_bytes, read_rows
from qconvert.checkpoint.types import Checkpoint, TensorInfo

__all__ = [
    "Checkpoint",
    "TensorInfo",
    "fingerprint",
    "open_checkpoint",
    "read_bytes",
    "read_rows",
]
