"""config.json of a smaller model."""

from collections.abc import Mapping
from typing import Any

from qconvert.errors import UnsupportedError
from qconvert.model.families.llama.llama import with_any_width
from qconvert.model.open import Model
from qconvert.plan.pruning.cut import Cut, Shape

KEYS: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer"),
    "hidden": ("hidden_size", "n_embd"),
    "ffn": ("intermediate_size", "n_inner"),
    "heads": ("num_attention_heads", "n_head"),
    "kv": ("num_key_value_heads",),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
}
"""What configurations call sizes, by the fields of `Shape`."""

OF_EXPERTS = "moe_intermediate_size"
"""The feed-forward's size where experts have one of their own."""

IN_LAYERS = ("layer_types", "no_rope_layers", "mlp_layer_types")
"""Lists with an entry for each layer."""

LLAMA = "LlamaForCausalLM"

NUMBERED = "mlp_only_layers"
"""A list of layers by their numbers."""


def kept_shape(cut: Cut, shape: Shape) -> Shape:
    """The sizes that a cut leaves. It leaves as much in every block.

    Raises:
        ValueError: it does not.
    """

    def left(by_block: Mapping[int, Any], whole: int) -> int:
        counts = {int(by_block[b].sum()) if b in by_block else whole for b in cut.blocks}
        if len(counts) != 1:
            raise ValueError(f"blocks of {sorted(counts)} parts")
        return counts.pop()

    kv = left(cut.groups, shape.kv)
    return Shape(
        len(cut.blocks),
        shape.hidden if cut.hidden is None else int(cut.hidden.sum()),
        left(cut.ffn, shape.ffn),
        kv * (shape.heads // shape.kv),
        kv,
        shape.head,
        left(cut.experts, shape.experts),
    )


def cut_config(
    model: Model, cut: Cut, shape: Shape, of_layers: Mapping[str, list[Any]]
) -> dict[str, Any]:
    """config.json, with the sizes that are left.

    Args:
        of_layers: what transformers derives of the whole model's for each layer, where it does.

    Raises:
        UnsupportedError: the family has no name for a size that changes.
    """
    config, settings = dict(model.config), model.settings
    left = kept_shape(cut, shape)
    for part, names in KEYS.items():
        new = getattr(left, part)
        if new == getattr(shape, part):
            continue
        if part == "ffn" and OF_EXPERTS in settings:
            names = (OF_EXPERTS,)
        stated = [name for name in names if name in config]
        usual = [name for name in names if name in settings] or [_unstated(model, part, names)]
        for name in stated or usual[:1]:
            if name:
                config[name] = new
    if left.hidden != shape.hidden or left.heads != shape.heads:
        config.setdefault("head_dim", shape.head)
        if config.get("architectures") == [LLAMA]:
            config = with_any_width(config)
    if left.layers != shape.layers:
        config |= {name: [values[b] for b in cut.blocks] for name, values in of_layers.items()}
        if NUMBERED in config and isinstance(config[NUMBERED], list):
            config[NUMBERED] = [cut.blocks.index(b) for b in config[NUMBERED] if b in cut.blocks]
    return config


def _unstated(model: Model, part: str, names: tuple[str, ...]) -> str:
    """How to call a size that neither the configuration nor the family's defaults have. Heads of
    keys and values are then as many as those of queries."""
    if part == "kv":
        return ""
    if model.family.name == "gpt2" and part == "ffn":
        return names[1]
    raise UnsupportedError(f"{model.family.name}: config.json has no name for its {part}")
