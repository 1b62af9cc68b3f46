"""Evaluations made up for tests of what is said about them."""

from pathlib import Path

import numpy as np

from qconvert.evaluation.divergence.types import Divergence, Evaluation, FileScores, TokenScores

NO_TOKENS = TokenScores(*[np.zeros((1, 1))] * 4)


def file_scores(name: str, divergence: float, ratio: float = 1.0) -> FileScores:
    return FileScores(
        path=Path(name),
        nbytes=123_456_789,
        bits_per_weight=4.8521,
        kind="Q4_K_M",
        notices=("a notice",),
        backend="llama.cpp",
        perplexity=10 * ratio,
        perplexity_error=0.5,
        perplexity_ratio=ratio,
        correlation=0.99,
        divergence=Divergence(divergence, float("nan"), 0.1, 0.2, 0.3, 0.4, 0.5, 3e-5),
        same_top=0.912,
        rms_delta_p=0.03,
        tokens=NO_TOKENS,
    )


def evaluation(
    *files: FileScores, better: dict[tuple[int, int], float] | None = None
) -> Evaluation:
    return Evaluation("./model", 10.0, "text.txt", 512, 2040, 3e-5, files, better or {})
