"""What blocks of some models need of each other beside hidden states, on the disk beside these.

    keys and values   of the last block of a kind that has its own, for later ones (Gemma 4 E2B)
                      [windows, window, heads * size], a file each
    inputs            of each block for each token (Gemma 4): made anew from the tokens, not kept
    chosen tokens     of the last block with an indexer (GLM-5): [windows, window, chosen]
    distances         what the first block adds to scores (T5): [heads, window, window], for all

Each is written by the block that has it whenever that runs, so that later blocks see what its
weights have become.
"""

from dataclasses import dataclass, replace
from typing import Any

from qconvert.errors import UnsupportedError
from qconvert.forward.states import States

KEYS, CHOICE = "shared_kv_states", "prev_topk_indices"
"""transformers' names of arguments."""

INPUTS = "hidden_size_per_layer_input"
BIAS = 1
"""Where T5's blocks have what is added to scores: among their arguments and their results."""


def what_is_passed(config: Any) -> str:
    """In words; empty where blocks take hidden states alone.

    Args:
        config: transformers' configuration.
    """
    if getattr(config, "num_kv_shared_layers", 0):
        return "keys and values of others"
    if getattr(config, INPUTS, 0):
        return "inputs of their own"
    if _shares_choices(config):
        return "tokens that others choose"
    return "the first one's numbers for distances" if _shares_distances(config) else ""


def check_alone(config: Any, name: str, doing: str) -> None:
    """Refuse models whose blocks need more of each other than hidden states.

    Args:
        name: the checkpoint's.
        doing: what cannot be done with them, "tuned".

    Raises:
        UnsupportedError: it is one.
    """
    if what := what_is_passed(config):
        raise UnsupportedError(
            f"{name} has layers with {what}, and cannot be {doing}",
            "it can be calibrated in one process, and quantized with that calibration",
        )


@dataclass(frozen=True)
class Shared:
    """Keys and values of a kind of layers.

    Attributes:
        source: the block that has them.
        heads: of keys.
    """

    source: int
    heads: int
    keys: States
    values: States


@dataclass(frozen=True)
class Passed:
    """The files of a walk.

    Attributes:
        shared: keys and values, by the kind of layers.
        choice: the tokens that were chosen.
        distances: what is added to scores.
        of_tokens: whether blocks have inputs of their own.
    """

    shared: dict[str, Shared]
    choice: States | None = None
    distances: States | None = None
    of_tokens: bool = False

    @property
    def files(self) -> tuple[States, ...]:
        both = [states for one in self.shared.values() for states in (one.keys, one.values)]
        return (*both, *(one for one in (self.choice, self.distances) if one is not None))

    def give(self, index: int, start: int, count: int, args: tuple, kwargs: dict) -> Any:
        """The arguments of a block for so many windows from `start` on.

        Args:
            args, kwargs: those that transformers' model has for it, where nothing is passed.
        """
        if self.shared:
            earlier = {kind: one for kind, one in self.shared.items() if one.source < index}
            found = {kind: _read(one, start, count) for kind, one in earlier.items()}
            kwargs = {**kwargs, KEYS: found}
        if self.choice is not None and index:
            kwargs = {**kwargs, CHOICE: self.choice.read(0, start, start + count).long()}
        if self.distances is not None and index:
            bias = self.distances.read(0, 0, self.distances.shape[0])[None]
            args = (*args[:BIAS], bias, *args[BIAS + 1 :])
        return args, kwargs

    def keep(self, index: int, start: int, kwargs: dict, out: Any) -> None:
        """Write what a block has for others.

        Args:
            kwargs: what it was called with.
            out: what it gave.
        """
        for kind, one in self.shared.items():
            if one.source == index:
                for states, values in zip((one.keys, one.values), kwargs[KEYS][kind], strict=True):
                    states.write(0, start, values.detach().transpose(1, 2).flatten(2))
        if self.choice is not None:
            self.choice.write(0, start, out[1])
        if self.distances is not None and not index:
            self.distances.write(0, 0, out[BIAS][0].detach())


def _read(one: Shared, start: int, count: int) -> tuple[Any, Any]:
    """Keys and values, [windows, heads, window, size]."""
    keys, values = (states.read(0, start, start + count) for states in (one.keys, one.values))
    shape = (count, keys.shape[1], one.heads, -1)
    return keys.view(shape).transpose(1, 2), values.view(shape).transpose(1, 2)


def find_passed(config: Any, states: States) -> Passed:
    """What a model's blocks pass.

    Args:
        config: transformers' configuration.
        states: the hidden states; files lie beside theirs.
    """
    windows, window, _ = states.shape

    def beside(name: str, shape: tuple[int, int, int], dtype: str = states.dtype) -> States:
        named = f"{states.name}-{name}"
        return replace(states, name=named, shape=shape, dtype=dtype, files=1, beside=())

    choice = distances = None
    if _shares_choices(config):  # whole numbers below 2^24, which float32 has all of
        count = min(config.index_topk, window)
        choice = beside("choice", (windows, window, count), "float32")
    if _shares_distances(config):
        distances = beside("distances", (config.num_attention_heads, window, window))
    shared = {}
    for block, mode in enumerate(getattr(config, "kv_sharing_modes", ())):
        if mode == "store":
            kind, own = config.layer_types[block], config.per_layer_config[block]
            heads = own.num_key_value_heads
            size = (windows, window, heads * own.head_dim)
            both = beside(f"{kind}-keys", size), beside(f"{kind}-values", size)
            shared[kind] = Shared(block, heads, *both)
    return Passed(shared, choice, distances, bool(getattr(config, INPUTS, 0)))


def _shares_choices(config: Any) -> bool:
    return "shared" in (getattr(config, "indexer_types", None) or ())


def _shares_distances(config: Any) -> bool:
    return str(config.model_type) == "t5"
