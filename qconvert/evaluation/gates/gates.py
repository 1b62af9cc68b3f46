"""Limits that files have to keep, so that a job which makes them can fail."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from qconvert.errors import UsageError
from qconvert.evaluation.divergence.types import Evaluation, FileScores


@dataclass(frozen=True)
class Gates:
    """What is asked for; None asks for nothing.

    Attributes:
        max_kld: of the mean divergence, in nats.
        max_perplexity_increase: over the reference's, as a share: 0.02 is 2%.
    """

    max_kld: float | None = None
    max_perplexity_increase: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A file at a gate.

    Attributes:
        path: of the file.
        gate: as the option is called: "max-kld".
        value: what was measured.
        limit: what is allowed.
        message: both in words, and by how much the one misses the other.
    """

    path: Path
    gate: str
    value: float
    limit: float
    message: str

    @property
    def passed(self) -> bool:
        """Not where the value is no number."""
        return self.value <= self.limit


def make_gates(max_kld: float | None, max_perplexity_increase: float | None) -> Gates:
    """What the command line asks for.

    Raises:
        UsageError: a limit is no number, or negative.
    """
    if max_kld is not None and not (isfinite(max_kld) and max_kld >= 0):
        raise UsageError(f"--max-kld {max_kld} is no limit", "use a number such as 0.05")
    return Gates(max_kld, max_perplexity_increase)


def judge(evaluation: Evaluation, gates: Gates) -> tuple[Verdict, ...]:
    """Every file at every gate that is asked for."""
    verdicts = []
    for file in evaluation.files:
        if gates.max_kld is not None:
            verdicts.append(_divergence(file, gates.max_kld))
        if gates.max_perplexity_increase is not None:
            verdicts.append(_perplexity(file, gates.max_perplexity_increase))
    return tuple(verdicts)


def failures(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if not verdict.passed]


def _divergence(file: FileScores, limit: float) -> Verdict:
    mean = file.divergence.mean
    message = f"mean KL divergence {mean:.4g} {_against(mean, limit, '{:.4g}')}"
    return Verdict(file.path, "max-kld", mean, limit, message)


def _perplexity(file: FileScores, limit: float) -> Verdict:
    increase = file.perplexity_ratio - 1
    message = f"perplexity {increase:+.2%} {_against(increase, limit, '{:.2%}')}"
    return Verdict(file.path, "max-perplexity-increase", increase, limit, message)


def _against(value: float, limit: float, form: str) -> str:
    bound = form.format(limit)
    if value <= limit:
        return f"is within {bound}"
    if value > limit:
        return f"is above {bound} by {form.format(value - limit)}"
    return f"is no number, and so not within {bound}"
