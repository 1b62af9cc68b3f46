"""The output projection by itself, with what the family does to its logits.

transformers' own model runs with a stub in place of everything before the projection, which hands
on hidden states; so scaling and soft caps of logits are the family's own code.
"""

from typing import Any

import numpy as np

from qconvert.errors import UnsupportedError
from qconvert.forward.experts import Inputs
from qconvert.forward.skeleton import build_skeleton, set_module, set_parameter
from qconvert.forward.weights import Parameters, read_parameter
from qconvert.model.mapping import EMBEDDING


class Head:
    """The output projection of a model, in memory: `module` is transformers' own, of so many
    `rows`.

    Args:
        source: where the parameters come from.
        device: "cpu", "cuda" or "mps".
        dtype: of the product, torch's name.
        inputs: changes what is multiplied, as in a walk, or None.

    Raises:
        UnsupportedError: the model has none, because it is an encoder.
        PlanError, CheckpointError: its weights are missing or cannot be read.
    """

    def __init__(
        self, source: Parameters, device: str, dtype: str, inputs: Inputs | None = None
    ) -> None:
        import torch

        skeleton = build_skeleton(source)
        if not skeleton.head:
            raise UnsupportedError(f"{source.checkpoint.source} has no output projection")
        self.device, self.dtype = device, dtype
        self._inputs = inputs
        self._names = (source.model.output,)
        self._model = skeleton.model
        head = self.module = self._model.get_submodule(skeleton.head)
        for name, parameter in list(head.named_parameters()):
            stored = f"{skeleton.head}.{name}"
            if name == "weight" and source.model.output == EMBEDDING:
                stored = f"{skeleton.tables[0][0]}.weight"
            values = read_parameter(source, stored, tuple(parameter.shape), dtype)
            set_parameter(head, name, values.to(device))
        self.rows = int(head.weight.shape[0])
        self._stub = _Stub()
        base = self._model.base_model_prefix
        base = base if base in dict(self._model.named_children()) else "model"
        before = torch.nn.Module()
        for name, value in vars(self._model.get_submodule(base)).items():
            if isinstance(value, int | float):  # some multiply logits with a number of the base
                setattr(before, name, value)
        before.forward = self._stub
        set_module(self._model, base, before)
        self._model.warn_if_padding_and_no_attention_mask = lambda *args: None
        self._ids = torch.zeros((1, 1), dtype=torch.long, device=device)

    def project(self, hidden: np.ndarray) -> np.ndarray:
        """Logits, float32 [tokens, vocabulary], of what comes out behind the last norm, float32
        [tokens, hidden]."""
        import torch

        values = torch.from_numpy(hidden).to(self.device, getattr(torch, self.dtype))
        with torch.no_grad():
            logits = self.logits(values)
        found: np.ndarray = logits.float().cpu().numpy()
        return found

    def logits(self, hidden: Any) -> Any:
        """The same of a tensor on the device, in the head's type, that may be derived."""
        values = self._inputs(self._names, hidden) if self._inputs else hidden
        self._stub.hidden = values[None]
        return self._model(input_ids=self._ids, use_cache=False).logits[0]


class _Stub:
    """Stands for all that comes before the projection."""

    hidden: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> "_Outputs":
        return _Outputs(self.hidden)


class _Outputs:
    """What models of transformers give: the hidden states, and nothing else that may be asked
    for."""

    def __init__(self, hidden: Any) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Any:
        return self.last_hidden_state if index == 0 else None

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None
