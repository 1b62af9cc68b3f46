"""The program from Python: its commands as functions, with the options' names.

    import qconvert
    made = qconvert.quantize("./model", "q4_k_m", "model.gguf", calibration="calib.safetensors")

Each gives the dataclass that its command prints as JSON. Where the command would print an error and
a hint, a `QconvertError` with both is raised. Sizes are numbers of bytes or "4GB". Nothing is
printed: a `watcher` hears of progress and of what a user should know.
"""

from qconvert.api.calibrating import calibrate
from qconvert.api.comparing import compare
from qconvert.api.distilling import distill
from qconvert.api.evaluating import evaluate
from qconvert.api.examining import doctor
from qconvert.api.exporting import export
from qconvert.api.inspecting import inspect
from qconvert.api.pruning import prune
from qconvert.api.quantizing import plan_quantize, quantize, quantize_all
from qconvert.api.reporting import make_report
from qconvert.api.tuning import tune

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
