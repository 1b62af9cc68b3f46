"""Turn Hugging Face checkpoints into small files that run elsewhere.

The commands are functions here, `qconvert.quantize` and so on; see `qconvert.api`. Nothing is
imported until one is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qconvert.api import (
        calibrate,
        compare,
        distill,
        doctor,
        evaluate,
        export,
        inspect,
        make_report,
        plan_quantize,
        prune,
        quantize,
        quantize_all,
        tune,
    )

__version__ = "0.1.0"

__all__ = [
    "calibrate",
    "compare",
    "distill",
    "doctor",
    "evaluate",
    "export",
    "inspect",
    "make_report",
    "plan_quantize",
    "prune",
    "quantize",
    "quantize_all",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from qconvert import api

    return getattr(api, name)
