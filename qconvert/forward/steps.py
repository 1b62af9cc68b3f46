"""What Mamba multiplies with the weights of its steps, seen though transformers does not run their
module, but takes its weight:

    step, B, C = split(x_proj(x))
    dt_proj.weight @ step          Jamba: of dt_layernorm(step)

So the module in front shows it: `x_proj` the first of what it gives, or the norm all of it.
"""

from collections.abc import Callable
from typing import Any


def show_steps(module: Any, show: Callable[[Any, Any], Any]) -> tuple[Any, ...]:
    """Have inputs shown.

    Args:
        module: a block.
        show: called with the module whose weight is multiplied and with the input; gives what is
            multiplied in its place.

    Returns:
        Handles, whose `remove` ends it.
    """
    found = []
    for child in module.modules():
        if not (hasattr(child, "x_proj") and hasattr(child, "dt_proj")):
            continue
        norm = getattr(child, "dt_layernorm", None)
        size = child.dt_proj.in_features

        def see(ahead: Any, args: Any, out: Any, to: Any = child.dt_proj, size: int = size) -> Any:
            import torch

            given = show(to, out[..., :size])
            rest = out[..., size:]
            return torch.cat([given, rest], dim=-1) if rest.shape[-1] else given

        found.append((norm or child.x_proj).register_forward_hook(see))
    return tuple(found)
