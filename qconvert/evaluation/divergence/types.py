"""What an evaluation is made of.

The protocol is that of llama-perplexity: the text's tokens are cut into windows, each begins with
BOS where the tokenizer adds one, and of each window the tokens behind the middle are scored.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from qconvert.checkpoint import Checkpoint
from qconvert.text.types import Windows

if TYPE_CHECKING:
    from qconvert.evaluation.extras import Extras
    from qconvert.evaluation.gates.gates import Verdict

Backend = Literal["torch", "transformers", "llama.cpp"]
"""What computes: torch with weights dequantized block by block, the whole model as transformers
loads it (for quantized activations), or llama.cpp itself."""


class Runtime(Protocol):
    """Something that computes logits of a model: one for each backend."""

    backend: Backend

    def logits(self, windows: Windows) -> Iterator[np.ndarray]:
        """For each window in order, float32 [scored of a window, vocabulary], C order; valid
        until the next is asked for.

        Raises:
            QconvertError: the model cannot be loaded or run.
        """


@dataclass(frozen=True)
class Subject:
    """A file or directory to be evaluated.

    Attributes:
        path: as the user named it.
        nbytes: of its files; of a directory with quantized weights, of all in it.
        bits_per_weight: 8 * bytes of tensors / weights.
        kind: what it is stored as, for people: "Q4_K_M", "w8a8", "BF16".
        runtime: what computes its logits.
        notices: what the user should know.
        checkpoint: what it is, for its tokenizer; its weights may not all be readable.
    """

    path: Path
    nbytes: int
    bits_per_weight: float
    kind: str
    runtime: Runtime
    notices: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = field(default=None, repr=False)


@dataclass(frozen=True)
class TokenScores:
    """Of one model, each array [windows, scored of a window].

    Attributes:
        loss: float64, negative log probability of the true token, in nats.
        divergence: float64, Kullback-Leibler divergence from the reference, in nats.
        same_top: bool, whether the most probable token is the reference's.
        delta_p: float64, probability of the true token less the reference's.
    """

    loss: np.ndarray
    divergence: np.ndarray
    same_top: np.ndarray
    delta_p: np.ndarray


@dataclass(frozen=True)
class Divergence:
    """Of the tokens' Kullback-Leibler divergences, in nats. The standard error is that of the
    mean over windows (NaN where there is one), for tokens of one window are not independent;
    `bound` is how far a compact reference may have moved the mean, 0 where exact."""

    mean: float
    standard_error: float
    median: float
    p90: float
    p99: float
    p999: float
    max: float
    bound: float = 0.0


@dataclass(frozen=True)
class FileScores:
    """One row of the table.

    Attributes:
        path, nbytes, bits_per_weight, kind, notices: as in `Subject`.
        backend: what computed it.
        perplexity: exp of the mean loss.
        perplexity_error: its standard error, over tokens as llama-perplexity's.
        perplexity_ratio: to the reference's.
        correlation: of the tokens' losses to the reference's (llama-perplexity's Cor(ln PPL)).
        divergence: from the reference.
        same_top: share of tokens.
        rms_delta_p: root mean square of delta p.
        tokens: what the summary was made of, for paired comparisons.
    """

    path: Path
    nbytes: int
    bits_per_weight: float
    kind: str
    notices: tuple[str, ...]
    backend: Backend
    perplexity: float
    perplexity_error: float
    perplexity_ratio: float
    correlation: float
    divergence: Divergence
    same_top: float
    rms_delta_p: float
    tokens: TokenScores


@dataclass(frozen=True)
class Evaluation:
    """All files against one reference.

    Attributes:
        reference: how the user named it.
        reference_perplexity: of the original.
        data: the text.
        window: tokens of each window.
        scored: tokens that were scored.
        bound: how far the compact cache may have moved a mean divergence, the largest of the
            files'; 0 where exact.
        files: in the order that the user gave.
        better: by (i, j), the share of bootstrap samples, drawn by window, in which file i has
            the smaller mean divergence than file j; i < j. Empty with fewer than 8 windows,
            which cannot tell.
        extras: of each file, speed and tasks that were asked for.
        verdicts: on the gates that were asked for.
    """

    reference: str
    reference_perplexity: float
    data: str
    window: int
    scored: int
    bound: float
    files: tuple[FileScores, ...]
    better: dict[tuple[int, int], float]
    extras: "tuple[Extras, ...]" = ()
    verdicts: "tuple[Verdict, ...]" = ()
