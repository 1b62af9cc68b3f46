"""How far a student's predictions are from its teacher's.

    divergence   sum over tokens of p (log p - log q)      p: the teacher's, q: the student's

Logits of a whole batch would take more memory than all the rest: they are made for some tokens at a
time, and what the divergence is derived by the hidden states is kept.

Source: G. Hinton et al., "Distilling the knowledge in a neural network", arXiv 1503.02531.
"""

from typing import Any

from qconvert.forward.head import Head

LOGITS = 1 << 23
"""Of student and teacher each, that are in memory at a time."""


def divergence(own: Any, other: Any) -> Any:
    """The sum over tokens of the divergence of logits [tokens, vocabulary] from others, in nats.

    Where one has more entries than the other, these are left out.
    """
    import torch

    count = min(own.shape[-1], other.shape[-1])
    log_own = torch.log_softmax(own[..., :count].float(), dim=-1)
    log_other = torch.log_softmax(other[..., :count].float(), dim=-1)
    return (log_other.exp() * (log_other - log_own)).sum()


def apart(own: Any, other: Any) -> Any:
    """How far hidden states of an encoder [windows, window, hidden] are from others, summed over
    tokens: one minus the cosine of each token's, and of each window's mean, which most encoders
    give as the embedding of a text."""
    import torch

    cosine = torch.nn.functional.cosine_similarity
    own, other = own.float(), other.float()
    tokens = (1 - cosine(own, other, dim=-1)).sum()
    texts = (1 - cosine(own.mean(dim=1), other.mean(dim=1), dim=-1)).sum()
    return tokens + own.shape[1] * texts


def derive(own: Head, hidden: Any, other: Head, wanted: Any, share: float) -> float:
    """The divergence of what two heads make of hidden states [tokens, hidden]; derived by the
    student's, `share` times as much goes back to where these came from.

    Args:
        hidden: the student's; without a gradient nothing is derived.
        wanted: the teacher's.
    """
    import torch

    is_derived = hidden.requires_grad
    flat = hidden.detach().requires_grad_(is_derived)
    step = max(LOGITS // own.rows, 1)
    total = 0.0
    for start in range(0, len(flat), step):
        stop = start + step
        with torch.no_grad():
            aim = other.logits(wanted[start:stop])
        with torch.set_grad_enabled(is_derived):
            found = divergence(own.logits(flat[start:stop]), aim)
        total += float(found.detach())
        if is_derived:
            (found * share).backward()
    if is_derived:
        hidden.backward(flat.grad)
    return total
