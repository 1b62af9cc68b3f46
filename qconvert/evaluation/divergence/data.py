"""An evaluation as plain data, for JSON."""

from math import isfinite
from typing import Any

from qconvert.evaluation.divergence.bootstrap import DRAWS
from qconvert.evaluation.divergence.compact import ERRORS
from qconvert.evaluation.divergence.types import Divergence, Evaluation, FileScores


def as_data(evaluation: Evaluation) -> dict[str, Any]:
    """Everything but the scores of single tokens; NaN, which JSON has not, becomes None."""
    windows = evaluation.scored // (evaluation.window - 1 - evaluation.window // 2)
    return {
        "reference": evaluation.reference,
        "reference_perplexity": number(evaluation.reference_perplexity),
        "data": evaluation.data,
        "tokens": windows * evaluation.window,
        "windows": windows,
        "window": evaluation.window,
        "scored_tokens": evaluation.scored,
        "bound": {"value": evaluation.bound, "standard_errors": ERRORS},
        "files": [_file(file) for file in evaluation.files],
        "pairs": [
            {
                "smaller": str(evaluation.files[i].path),
                "larger": str(evaluation.files[j].path),
                "share": share,
                "samples": DRAWS,
            }
            for (i, j), share in evaluation.better.items()
        ],
    }


def _file(file: FileScores) -> dict[str, Any]:
    return {
        "path": str(file.path),
        "type": file.kind,
        "bytes": file.nbytes,
        "bits_per_weight": round(file.bits_per_weight, 4),
        "backend": file.backend,
        "perplexity": number(file.perplexity),
        "perplexity_standard_error": number(file.perplexity_error),
        "perplexity_ratio": number(file.perplexity_ratio),
        "correlation": number(file.correlation),
        "kl_divergence": _divergence(file.divergence),
        "same_top": number(file.same_top),
        "rms_delta_p": number(file.rms_delta_p),
        "notices": list(file.notices),
    }


def _divergence(divergence: Divergence) -> dict[str, float | None]:
    return {
        "mean": number(divergence.mean),
        "standard_error": number(divergence.standard_error),
        "median": number(divergence.median),
        "p90": number(divergence.p90),
        "p99": number(divergence.p99),
        "p999": number(divergence.p999),
        "max": number(divergence.max),
        "bound": number(divergence.bound),
    }


def number(value: float) -> float | None:
    return value if isfinite(value) else None
