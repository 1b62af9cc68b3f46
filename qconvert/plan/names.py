"""The names that an output's tensors have in the other container, GGUF's or Hugging Face's: a
pattern may be written in either.
"""

from qconvert.errors import QconvertError
from qconvert.model.open import Model
from qconvert.plan.overrides import Names


def names_elsewhere(model: Model) -> Names:
    """Hugging Face's names, by GGUF's; of stacked experts each expert's. Empty for a GGUF file of a
    family that is not written back."""
    if model.checkpoint.container != "gguf":
        return {tensor.name: [part.source for part in tensor.parts] for tensor in model.tensors}
    try:
        weights = model.weights
    except QconvertError:
        return {}
    found: dict[str, list[str]] = {}
    for weight in weights:
        found.setdefault(weight.gguf, []).append(weight.name)
    return found


def names_in_gguf(model: Model) -> Names:
    """GGUF's names, by Hugging Face's; of an expert that of the stack."""
    return {weight.name: [weight.gguf] for weight in model.weights if weight.gguf}
