"""The inputs of a file's products as llama.cpp's CPU code has them; see
`qconvert.formats.ggml.inputs`."""

from dataclasses import dataclass
from typing import Any

from qconvert.checkpoint import Checkpoint
from qconvert.formats.ggml.inputs import input_type, round_input
from qconvert.forward.experts import Inputs


def llama_inputs(checkpoint: Checkpoint) -> Inputs | None:
    """What changes the inputs of a walk; None where the model is no GGUF file."""
    return _Rounding(checkpoint) if checkpoint.container == "gguf" else None


@dataclass
class _Rounding:
    """Rounds the inputs of a file's products. What goes into several products, one behind the
    other, is rounded once."""

    checkpoint: Checkpoint
    _last: tuple[Any, str, Any] = (None, "", None)

    def __call__(self, names: tuple[str, ...], x: Any) -> Any:
        # Weights that transformers holds as one have one type, but where the user chose otherwise.
        kind = input_type(self.checkpoint.tensors[names[0]].dtype)
        if not kind:
            return x
        if x is not self._last[0] or kind != self._last[1]:
            self._last = (x, kind, round_input(x, kind))
        return self._last[2]
