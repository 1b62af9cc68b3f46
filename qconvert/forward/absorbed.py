"""Latent attention as a runtime multiplies it, seen while transformers computes it otherwise.

transformers makes keys and values of all heads from a latent vector, kv = latent @ kv_b.T.
llama.cpp multiplies queries with the keys' part, so that it can attend to the latent vectors
themselves, and what attention has mixed of those with the values' part
(`qconvert.model.families.parts.latent`):

    attn_k_b    sees of each head the part of its queries that does not turn
    attn_v_b    sees of each head the latent vectors, mixed as the head attends

Both are told here of what transformers passes to its attention.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qconvert.forward.attention import attend_in_strips, attend_with_mask, watch
from qconvert.forward.weights import Parameters

Show = Callable[[str, Any, int], None]
"""Called with a weight's name, its input [tokens, columns], and the number of the head."""


@dataclass(frozen=True)
class Absorbed:
    """The weights that lie in one `kv_b_proj`.

    Attributes:
        keys, values: their GGUF names.
        heads, size: how many, and elements of keys that do not turn.
        latent: transformers' module that is given the latent vectors.
        attention: the one around it.
    """

    keys: str
    values: str
    heads: int
    size: int
    latent: Any
    attention: Any

    def begin(self, show: Show) -> None:
        """Have the inputs shown from now on, at each forward."""
        given: list[Any] = []

        def keep(module: Any, args: tuple) -> None:
            given[:] = [args[0]]

        def see(query: Any, key: Any, scaling: float, mask: Any) -> None:
            shape = (*query.shape[:3], given[0].shape[-1])
            latent = given[0].reshape(shape[0], 1, *shape[2:]).expand(shape)
            if mask is None:
                mixed = attend_in_strips(query, key, latent, scaling)
            else:
                mixed = attend_with_mask(query, key, latent, scaling, mask)
            for head in range(self.heads):
                show(self.keys, query[:, head, :, : self.size].flatten(0, 1), head)
                show(self.values, mixed[:, :, head].flatten(0, 1), head)

        self.latent.register_forward_pre_hook(keep)
        watch(self.attention, see)

    def end(self) -> None:
        self.latent._forward_pre_hooks.clear()
        watch(self.attention, None)


def find_absorbed(source: Parameters, prefix: str, module: Any) -> tuple[Absorbed, ...]:
    """Those of a block."""
    found = []
    for inner, child in module.named_modules():
        targets = source.targets_of(f"{prefix}{inner}.weight")
        keys = [(name, rule) for name, rule in targets if rule.turned]
        if not keys:
            continue
        (name, rule), *_ = keys
        (values,) = (other for other, _ in targets if other != name)
        assert rule.rows is not None
        heads = child.weight.shape[0] // rule.period
        around = module.get_submodule(inner.rpartition(".")[0])
        found.append(Absorbed(name, values, heads, rule.rows[1], child, around))
    return tuple(found)
