"""Turn Hugging Face checkpoints into small files that run elsewhere."""

__version__ = "0.1.0"
