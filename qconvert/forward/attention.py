"""Causal attention on the CPU in strips, as transformers lets one register it.

torch's own attention multiplies the strips of a window one head at a time; here the queries of a
strip meet all earlier keys in one product of the run's type, which takes about two thirds of the
time. torch's softmax computes in float32 inside. Wherever a model passes a mask (sliding windows,
encoders), torch's own attention is used.
"""

from typing import Any

NAME = "qconvert_strips"

BY_NAME = ("falcon",)
"""Models that ask what their attention is called, and know no other than transformers' own."""

STRIP = 128
"""Queries at a time."""


def use_strips(config: Any) -> None:
    """Have a model of transformers attend in strips, if it would use torch's attention."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if getattr(config, "_attn_implementation", "") != "sdpa" or config.model_type in BY_NAME:
        return
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME


WATCH = "_qconvert_watch"


def watch(module: Any, see: Any) -> None:
    """Have a module's queries, keys, scaling and mask shown when it attends; None ends that."""
    vars(module).pop(WATCH, None)
    if see is not None:
        vars(module)[WATCH] = see


def attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **settings: Any
) -> tuple[Any, None]:
    """What transformers calls; see its `sdpa_attention_forward`.

    Args:
        query: [batch, heads, tokens, size].
        key, value: [batch, heads of keys, tokens, size].

    Returns:
        [batch, tokens, heads, size], and no weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    chosen = settings.pop("indices", None)
    if chosen is not None:
        attention_mask = _among(attention_mask, chosen)
    see = vars(module).get(WATCH)
    if see is not None:
        see(query, key, settings.get("scaling") or query.shape[-1] ** -0.5, attention_mask)
    is_causal = settings.get("is_causal")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    plain = attention_mask is None and causal and query.shape[2] == key.shape[2]
    if not plain or query.device.type != "cpu" or settings.get("dropout"):
        found: tuple[Any, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **settings
        )
        return found
    scaling = settings.get("scaling")
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    return attend_in_strips(query, key, value, scaling), None


def _among(mask: Any, chosen: Any) -> Any:
    """A mask [batch, 1, tokens, keys] that leaves tokens the keys that were chosen for them.

    Args:
        mask: of truths, or what is added to scores.
        chosen: int [batch, tokens, chosen], numbers of keys.
    """
    import torch

    others = torch.ones_like(mask[:, 0], dtype=torch.bool).scatter(-1, chosen.long(), False)[
        :, None
    ]
    if mask.dtype == torch.bool:
        return mask & ~others
    return mask.masked_fill(others, torch.finfo(mask.dtype).min)


def attend_with_mask(query: Any, key: Any, value: Any, scaling: float, mask: Any) -> Any:
    """Each token attends to what a mask leaves it. Shapes are those of `attend`."""
    import torch

    share = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(share, 1) if share > 1 else x for x in (key, value))
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(query, key, value, mask, scale=scaling).transpose(1, 2)


def attend_in_strips(query: Any, key: Any, value: Any, scaling: float) -> Any:
    """Each token attends to itself and those before it. Shapes are those of `attend`."""
    import torch

    batch, heads, tokens, size = query.shape
    groups = key.shape[1]
    share = heads // groups
    grouped = (query * scaling).reshape(batch, groups, share, tokens, size)
    shape = (batch, tokens, heads, value.shape[-1])
    out = torch.empty(shape, dtype=query.dtype, device=query.device)
    places = out.view(batch, tokens, groups, share, -1).permute(0, 2, 3, 1, 4)
    future = torch.ones(STRIP, STRIP, dtype=torch.bool, device=query.device).triu(1)
    for start in range(0, tokens, STRIP):
        stop = min(start + STRIP, tokens)
        strip = grouped[:, :, :, start:stop].reshape(batch, groups, -1, size)
        scores = torch.matmul(strip, key[:, :, :stop].transpose(2, 3))
        scores = scores.view(batch, groups, share, stop - start, stop)
        width = stop - start
        scores[..., start:].masked_fill_(future[:width, :width], float("-inf"))
        weights = torch.softmax(scores, -1).view(batch, groups, -1, stop)
        mixed = torch.matmul(weights, value[:, :, :stop])
        places[:, :, :, start:stop] = mixed.view(batch, groups, share, width, -1)
    return out
