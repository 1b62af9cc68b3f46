"""Tensors of a GGUF file that are stored otherwise than its type asks, as people are told."""

from qconvert.errors import shorten
from qconvert.plan.safetensors.schemes import is_scheme
from qconvert.plan.types import Plan

REMEDY = "  q8_0, q5_1, q5_0, q4_0 and iq4_nl have blocks of 32, which divide more rows"


def notices(plan: Plan) -> list[str]:
    """What the user should know of an output."""
    if not is_scheme(plan.recipe.type):
        return [*plan.notices, *fallback_lines(plan)]
    return list(plan.notices)  # which name the fallbacks, as the model card does


def fallback_lines(plan: Plan) -> list[str]:
    """How many of all tensors fall back, which, why, and what it costs."""
    fallbacks = plan.fallbacks
    if not fallbacks:
        return []
    extra = sum(tensor.extra_bytes for tensor in fallbacks)
    total = len(plan.tensors)
    lines = [
        f"{len(fallbacks)} of {total} tensors fall back to another type, {extra / 1e6:+.1f} MB:"
    ]
    for key in dict.fromkeys((t.wanted, t.format, t.reason) for t in fallbacks):
        group = [t for t in fallbacks if (t.wanted, t.format, t.reason) == key]
        wanted, format_, reason = key
        cost = sum(tensor.extra_bytes for tensor in group) / 1e6
        names = shorten([tensor.name for tensor in group])
        lines.append(f"  {len(group)} x {wanted} -> {format_}, {cost:+.1f} MB: {reason} ({names})")
    if any("multiple of 256" in tensor.reason for tensor in fallbacks):
        lines.append(REMEDY)
    return lines
