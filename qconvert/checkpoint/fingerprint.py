"""A digest that tells models apart without reading all their weights."""

import json
from hashlib import sha256
from typing import Any

import numpy as np

from qconvert.checkpoint.modules import dense_settings, dense_weights
from qconvert.checkpoint.rows import pread, read_bytes
from qconvert.checkpoint.types import Checkpoint, TensorInfo

SAMPLE = 4096


def fingerprint(checkpoint: Checkpoint) -> str:
    """SHA-256 over what the checkpoint says of itself and up to three samples of each tensor.

    It covers config.json or the GGUF metadata, each tensor's name, dtype and shape, and 4 KiB at
    its start, middle and end, and those of layers that sentence-transformers puts behind a model.
    It does not depend on shards, file names or where the files are. It recognizes a model, and
    does not protect against one that was altered on purpose.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digest = sha256()
    # A `Field` is a tuple of numbers and plain values, which is all that JSON needs.
    about = {"config": checkpoint.config, "metadata": checkpoint.metadata}
    digest.update(json.dumps(about, sort_keys=True).encode())
    for name in sorted(checkpoint.tensors):
        tensor = checkpoint.tensors[name]
        for part in tensor.codes.parts.values() if tensor.codes else (tensor,):
            _add(digest, part)
        if tensor.scale is not None:
            _add(digest, tensor.scale)
        if tensor.delta is not None:
            digest.update(repr((tensor.delta.scale, tensor.delta.turned)).encode())
            for part in tensor.delta.parts:
                _add(digest, part)
    if checkpoint.container == "huggingface" and (settings := dense_settings(checkpoint.path)):
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for part in dense_weights(checkpoint.path):
            _add(digest, part)
    return digest.hexdigest()


def _add(digest: Any, tensor: TensorInfo) -> None:
    digest.update(json.dumps([tensor.name, tensor.dtype, tensor.shape]).encode())
    for sample in _samples(tensor):
        digest.update(sample)


def _samples(tensor: TensorInfo) -> list[np.ndarray]:
    if tensor.strides is not None:
        rows = sorted({0, tensor.rows // 2, tensor.rows - 1})
        return [read_bytes(tensor, row, row + 1)[0, :SAMPLE] for row in rows]
    size = min(SAMPLE, tensor.nbytes)
    starts = sorted({0, (tensor.nbytes - size) // 2, tensor.nbytes - size})
    samples = [np.empty(size, np.uint8) for _ in starts]
    for start, sample in zip(starts, samples, strict=True):
        pread(tensor.path, tensor.offset + start, sample, tensor.name)
    return samples
