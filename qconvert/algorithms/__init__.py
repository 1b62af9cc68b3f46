"""How weights are quantized, and what is done to them before: an algorithm in each file.

A new one is a function of the type `Algorithm` in a file of its own, and a line here.
"""

from qconvert.algorithms.balance import balanced
from qconvert.algorithms.feedback import feedback
from qconvert.formats.quantize import Algorithm, nearest

ALGORITHMS: dict[str, Algorithm] = {
    "nearest": nearest,
    "balance": balanced,
    "feedback": feedback,
}
"""By the names that plans have for them."""
