"""The hyper-parameters of a GGUF file, on their way back into `config.json`.

They come from strangers: every value is checked for its kind and range when it is read, and the
sizes that follow from them are held against the tensors afterwards (`reverse.py`).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts.common import LARGEST, MOST_BLOCKS, RMS_EPSILON


@dataclass(frozen=True)
class Keys:
    """The `{name}.*` keys of an opened GGUF file.

    Attributes:
        checkpoint: the file.
        name: `general.architecture`.
    """

    checkpoint: Checkpoint
    name: str

    def value(self, key: str) -> Any:
        """What is stored, or None."""
        field = self.checkpoint.metadata.get(f"{self.name}.{key}")
        return None if field is None else field.value

    def has(self, key: str) -> bool:
        return f"{self.name}.{key}" in self.checkpoint.metadata

    def whole(self, key: str, default: int | None = None, most: int = LARGEST) -> int:
        """An integer from 1 to `most`; of a list with one number for each block, that number if
        it is the same for all.

        Raises:
            CheckpointError: it is missing, or no such integer.
            UnsupportedError: the blocks differ.
        """
        value = self.value(key)
        if isinstance(value, list) and value:
            if any(other != value[0] for other in value):
                raise UnsupportedError(
                    f"{self.name}.{key} differs from block to block, and transformers' "
                    "configuration of this family has one value for all"
                )
            value = value[0]
        if value is None:
            value = default
        if type(value) is not int or not 1 <= value <= most:
            raise CheckpointError(
                f"{self.name}.{key} is {self._shown(value)}, not a whole number in range"
            )
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A finite number, in the fewest digits that give the stored float32.

        Raises:
            CheckpointError: it is missing or no such number.
        """
        value = self.value(key)
        if value is None:
            value = default
        usable = isinstance(value, int | float) and not isinstance(value, bool)
        if not usable or not math.isfinite(value) or abs(value) > 1e30:
            raise CheckpointError(
                f"{self.name}.{key} is {self._shown(value)}, not a number in range"
            )
        return float(str(np.float32(value)))

    def _shown(self, value: Any) -> str:
        return "missing" if value is None else f"{value!r:.60}"

    def has_tensor(self, name: str) -> bool:
        """Whether a tensor is there, in the first block if the name has an `{i}`."""
        return name.replace("{i}", "0") in self.checkpoint.tensors

    @property
    def vocabulary(self) -> int:
        """Rows of the token embedding."""
        info = self.checkpoint.tensors.get("token_embd.weight")
        if info is None or len(info.shape) != 2:
            raise CheckpointError("the file has no token_embd.weight, so it holds no whole model")
        return info.shape[0]

    @property
    def head_size(self) -> int:
        """Elements of one head.

        Raises:
            UnsupportedError: values have another size than keys.
        """
        size = self.whole(
            "attention.key_length",
            default=max(self.whole("embedding_length") // self.whole("attention.head_count"), 1),
        )
        if self.whole("attention.value_length", default=size) != size:
            raise UnsupportedError(f"{self.name}: keys and values have heads of different sizes")
        return size

    @property
    def blocks(self) -> int:
        return self.whole("block_count", most=MOST_BLOCKS)


def decoder_config(
    keys: Keys, class_name: str, model_type: str, epsilon: tuple[str, str] = RMS_EPSILON
) -> dict[str, Any]:
    """`config.json` of a decoder: the converse of `common.decoder_metadata`.

    Args:
        epsilon: the setting and the key of what norms add to a variance.

    Raises:
        CheckpointError: a key is missing or absurd.
        UnsupportedError: a layout that the family does not have in transformers.
    """
    heads = keys.whole("attention.head_count")
    config = {
        "architectures": [class_name],
        "model_type": model_type,
        "vocab_size": keys.vocabulary,
        "hidden_size": keys.whole("embedding_length"),
        "intermediate_size": keys.whole("feed_forward_length"),
        "num_hidden_layers": keys.blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.whole("attention.head_count_kv", default=heads),
        "max_position_embeddings": keys.whole("context_length"),
        epsilon[0]: keys.real(epsilon[1]),
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "tie_word_embeddings": not keys.has_tensor("output.weight"),
        "use_cache": True,
    }
    if keys.head_size * heads != config["hidden_size"] or keys.has("attention.key_length"):
        config["head_dim"] = keys.head_size
    return config


def bias_flag(keys: Keys, names: tuple[str, ...]) -> bool:
    """Whether linear layers have biases, where one switch of the configuration rules them all.

    Args:
        names: of the biases, with `{i}`.

    Raises:
        UnsupportedError: some have, some have not.
    """
    present = [keys.has_tensor(name) for name in names]
    if any(present) and not all(present):
        missing = names[present.index(False)].replace("{i}", "0")
        raise UnsupportedError(
            f"{missing} is missing where other biases are there, and transformers has all or none"
        )
    return any(present)
