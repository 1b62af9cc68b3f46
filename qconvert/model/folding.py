"""What a family lets be folded: where an input's channels can be divided by what makes them.

A norm's output is divided by dividing the norm's weight and bias; the columns of all weights that
it is multiplied with are multiplied by the same, and the model's function stays. The input of the
feed-forward's last weight is the product of "up" and of the activation of "gate", so it is divided
with the rows of "up". Not so where a function that is not linear lies between (GPT-2's and BERT's
feed-forward), where the norm's output is the residual stream itself (BERT), or where there is no
norm before (OLMo 2, whose norms come after).
"""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Fold:
    """An input that can be divided by channel. Names are GGUF's, without ".weight" and ".bias".

    Attributes:
        maker: what is divided: a norm, or a weight by its rows.
        weights: what the input is multiplied with.
        routers: what else it is multiplied with, and is not quantized.
        is_norm: whether the maker is a norm.
        part: the rows of the maker that make the input, as a fraction of them: first and last.
            Of experts, rows of each.
    """

    maker: str
    weights: tuple[str, ...]
    routers: tuple[str, ...] = ()
    is_norm: bool = True
    part: tuple[float, float] = (0.0, 1.0)


ATTENTION = Fold("attn_norm", ("attn_q", "attn_k", "attn_v"))
FUSED_ATTENTION = Fold("attn_norm", ("attn_qkv",))
FUSED_FEED_FORWARD = Fold("ffn_norm", ("ffn_up",))
DOWN = Fold("ffn_up", ("ffn_down",), is_norm=False)
DOWN_OF_FUSED = Fold("ffn_up", ("ffn_down",), is_norm=False, part=(0.5, 1.0))
EXPERTS = Fold("ffn_norm", ("ffn_gate_exps", "ffn_up_exps"), routers=("ffn_gate_inp",))
DOWN_OF_EXPERTS = Fold("ffn_up_exps", ("ffn_down_exps",), is_norm=False)
SHARED = ("ffn_gate_shexp", "ffn_up_shexp")
DOWN_OF_SHARED = Fold("ffn_up_shexp", ("ffn_down_shexp",), is_norm=False)


def folds(known: tuple[Fold, ...], block: int, names: Collection[str]) -> tuple[Fold, ...]:
    """What can be folded in one block, with full names ("blk.0.attn_norm").

    Args:
        known: of the family.
        names: of the model's GGUF tensors.
    """
    prefix = f"blk.{block}."

    def full(stems: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(prefix + stem for stem in stems)

    return tuple(
        Fold(prefix + fold.maker, full(fold.weights), full(fold.routers), fold.is_norm, fold.part)
        for fold in known
        if all(
            prefix + stem + ".weight" in names
            for stem in (fold.maker, *fold.weights, *fold.routers)
        )
    )
