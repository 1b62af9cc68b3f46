"""transformers' model with stand-ins for its blocks and its output projection.

The model's own forward then tells what it passes to each block (masks, positions), embeds tokens,
and applies the last norm to what is put in the place of the last block's output.
"""

from typing import Any

from qconvert.forward.copies import apart, copies_of, joined
from qconvert.forward.skeleton import Skeleton, set_module

OTHERS: dict[str, tuple[None, ...]] = {
    "BloomBlock": (None,),  # the weights of attention, if anybody asks
    "FalconDecoderLayer": (None,),
    "FalconH1DecoderLayer": (),
    "MptBlock": (None,),
    "GlmMoeDsaDecoderLayer": (None,),  # the tokens that it chose, if the next may share them
    "T5Block": (None, None),  # what is added to scores, of its own tokens and of others
}
"""What blocks give behind hidden states, where they do not give those alone."""


class Stubs:
    """transformers' model with stand-ins for its blocks and for its output projection.

    Args:
        first: the position that a text begins with.
    """

    def __init__(self, skeleton: Skeleton, first: int = 0) -> None:
        import torch

        self.model = skeleton.model
        self._first = first
        self.seen: list[tuple[tuple, dict]] = []
        self.first: Any = None
        self.last: Any = None
        self.caught: Any = None
        count, copies = len(skeleton.blocks), copies_of(skeleton.config)

        class Stub(torch.nn.Module):
            """Hands on what it gets."""

            def __init__(self, block: Any) -> None:
                super().__init__()
                # Some models choose masks by what a block says of itself.
                for name, value in vars(block).items():
                    if isinstance(value, str | int | float | bool):
                        setattr(self, name, value)
                self.others = OTHERS.get(type(block).__name__)

            def forward(stub, hidden: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
                if not self.seen:
                    self.first = joined(hidden, copies)
                self.seen.append((args, kwargs))
                if len(self.seen) == count and self.last is not None:
                    hidden = apart(self.last, copies)
                return hidden if stub.others is None else (hidden, *stub.others)

        class Catch(torch.nn.Module):
            """Keeps what would be multiplied."""

            @property
            def weight(stub) -> Any:  # noqa: N805
                """Some models ask for its type."""
                return next(self.model.parameters())

            def forward(stub, hidden: Any) -> Any:  # noqa: N805
                self.caught = hidden
                return hidden[..., :1]

        # There is no padding, and ids are numbered anew: nothing to warn of.
        self.model.warn_if_padding_and_no_attention_mask = lambda *args: None
        stubs = torch.nn.ModuleList([Stub(block) for block in skeleton.blocks])
        set_module(self.model, skeleton.blocks_name, stubs)
        if skeleton.head:
            set_module(self.model, skeleton.head, Catch())

    def run(self, ids: Any, last: Any = None, *, gradients: bool = False) -> Any:
        """What comes out behind the last block and norm; `last` stands for what the last block
        gives.

        Args:
            gradients: keep what is needed to derive it by `last`.
        """
        import torch

        self.seen, self.last, self.caught = [], last, None
        with torch.set_grad_enabled(gradients):
            out = self.model(input_ids=ids, use_cache=False, **self._positions(ids))
        return out.last_hidden_state if self.caught is None else self.caught

    def _positions(self, ids: Any) -> dict[str, Any]:
        """Stated where the model would tell them from numbers of tokens, which are others here."""
        import torch

        if not self._first:
            return {}
        last = self._first + ids.shape[-1]
        return {"position_ids": torch.arange(self._first, last, device=ids.device)[None]}
