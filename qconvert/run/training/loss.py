"""How far a student's predictions are from its teacher's.

    divergence   sum over tokens of p (log p - log q)      p: the teacher's, q: the student's

Logits of a whole batch would take more memory than all the rest: they are made for some tokens at a
time, and what the divergence is derived by the hidden states is kept.

Beside it may count, by a weight of its own each:

    next token   sum over tokens of -log q of the token that follows in the text
    hidden       sum over tokens of |h - h'|^2 / |h'|^2, the mean over blocks: what leaves the
                 student's block, and what leaves the teacher's that matches it

Source: G. Hinton et al., "Distilling the knowledge in a neural network", arXiv 1503.02531.
"""

from dataclasses import dataclass
from typing import Any

from qconvert.forward.head import Head

LOGITS = 1 << 23
"""Of student and teacher each, that are in memory at a time."""


NONE = -100
"""In place of a token that nothing is known of."""


@dataclass(frozen=True)
class Losses:
    """What counts beside the divergence.

    Attributes:
        next_token, hidden: the weights, 0 for what does not count.
    """

    next_token: float = 0.0
    hidden: float = 0.0

    @property
    def words(self) -> list[str]:
        """What headers say of it."""
        named = {"next token": self.next_token, "hidden": self.hidden}
        return [f"{name} {weight:g}" for name, weight in named.items() if weight]


DIVERGENCE = Losses()
"""Nothing beside it."""


@dataclass(frozen=True)
class More:
    """What counts beside the divergence of some tokens.

    Attributes:
        follows: the token behind each, int64 [tokens], or NONE; None where that does not count.
        weight: of the loss of these.
        beside: another loss, summed over the tokens, that may be derived.
    """

    follows: Any = None
    weight: float = 0.0
    beside: Any = None


NOTHING = More()


def distance(own: Any, other: Any) -> Any:
    """How far hidden states [windows, window, hidden] are from others, summed over tokens, each in
    parts of its own size."""
    off = (own.float() - other.float()).square().sum(dim=-1)
    return (off / other.float().square().sum(dim=-1).clamp(min=1e-12)).sum()


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


def derive(
    own: Head, hidden: Any, other: Head, wanted: Any, share: float, more: More = NOTHING
) -> float:
    """The divergence of what two heads make of hidden states [tokens, hidden], and what counts
    beside it; derived by the student's, `share` times as much goes back to where these came from.

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
            logits = own.logits(flat[start:stop])
            found = divergence(logits, aim)
            if more.follows is not None:
                found = found + more.weight * _surprise(logits, more.follows[start:stop])
        total += float(found.detach())
        if is_derived:
            (found * share).backward()
    if not is_derived:
        return total
    if more.beside is None:
        hidden.backward(flat.grad)
        return total
    torch.autograd.backward((hidden, more.beside * share), (flat.grad, None))
    return total + float(more.beside.detach())


def _surprise(logits: Any, follows: Any) -> Any:
    """The sum of -log q of the tokens that follow, in nats."""
    import torch

    return torch.nn.functional.cross_entropy(
        logits.float(), follows, ignore_index=NONE, reduction="sum"
    )
