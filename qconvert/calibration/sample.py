"""A sample of text for a model, in windows of its tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from qconvert.calibration.types import Sample
from qconvert.calibration.windows import draw_starts
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.forward.tokenizer import encode, load_tokenizer


class Watcher(Protocol):
    """Who wants to know how it goes."""

    def note(self, message: str) -> None:
        """Something worth a line."""


def draw_sample(
    data: Sequence[str],
    checkpoint: Checkpoint,
    *,
    tokens: int,
    window: int,
    seed: int,
    watcher: Watcher,
    device: str = "cpu",
) -> Sample:
    """Draws windows of tokens from what the user names.

    Args:
        data: files of text; nothing stands for "self".
        checkpoint: whose tokenizer is used.
        tokens: how many to draw at least; whole windows are drawn.
        window: tokens of each, with those that the tokenizer puts around a text.
        seed: the same arguments give the same tokens.
        watcher: is told what is worth a line.
        device: where a model writes its own sample.
    """
    if list(data) in ([], ["self"]):
        raise UnsupportedError("the model cannot write its own sample yet", "name a text: --data")
    tokenizer = load_tokenizer(checkpoint)
    texts = [Path(item).read_text(encoding="utf-8") for item in data]
    stream = np.concatenate(encode(tokenizer, texts))
    before = np.array(tokenizer.before, np.int32)
    after = np.array(tokenizer.after, np.int32)
    body = window - len(before) - len(after)
    starts = draw_starts(len(stream), -(-tokens // window), body, np.random.default_rng(seed))
    if not len(starts):
        raise CheckpointError(f"{', '.join(data)}: too little text for one window of {window}")
    rows = [np.concatenate([before, stream[s : s + body], after]) for s in starts]
    return Sample(np.stack(rows), ", ".join(Path(item).name for item in data), seed)
