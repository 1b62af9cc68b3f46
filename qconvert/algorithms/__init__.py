"""Algorithms: free functions on tensors, one a file; the table holds those of single weights."""

from qconvert.algorithms.balance import balanced
from qconvert.formats.quantize import Algorithm, nearest

ALGORITHMS: dict[str, Algorithm] = {"nearest": nearest, "balance": balanced}
