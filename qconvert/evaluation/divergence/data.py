"""An evaluation as plain data, for JSON."""

from dataclasses import asdict
from math import isfinite
from typing import Any

from qconvert.evaluation.divergence.bootstrap import DRAWS
from qconvert.evaluation.divergence.compact import ERRORS
from qconvert.evaluation.divergence.types import Evaluation, FileScores


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
        "kl_divergence": {key: number(x) for key, x in asdict(file.divergence).items()},
        "same_top": number(file.same_top),
        "rms_delta_p": number(file.rms_delta_p),
        "notices": list(file.notices),
    }


def number(value: float) -> float | None:
    return value if isfinite(value) else None
