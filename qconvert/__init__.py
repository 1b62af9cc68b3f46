"""Turn Hugging Face checkpoints into small files that run elsewhere.

The commands are functions here: `qconvert.quantize`, `quantize_all`, `plan_quantize`, `calibrate`,
`evaluate`, `inspect`, `export` and `prune`; see `qconvert.api`. Nothing is imported until one is
asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qconvert.api import (
        calibrate,
        evaluate,
        export,
        inspect,
        plan_quantize,
        prune,
        quantize,
        quantize_all,
    )

__version__ = "0.1.0"

__all__ = [
    "calibrate",
    "evaluate",
    "export",
    "inspect",
    "plan_quantize",
    "prune",
    "quantize",
    "quantize_all",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from qconvert import api

    return getattr(api, name)
