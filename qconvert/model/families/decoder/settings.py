"""`config.json` of a plain decoder, from a GGUF file."""

from typing import Any

from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families.decoder.types import Decoder, Experts
from qconvert.model.families.decoder.windows import window_config
from qconvert.model.families.parts.common import EPSILONS
from qconvert.model.families.parts.keys import Keys, bias_flag, decoder_config
from qconvert.model.families.parts.rope_config import rope_config


def decoder_settings(decoder: Decoder, checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings that give the file's keys again.

    Raises:
        CheckpointError: a key is missing or absurd.
        UnsupportedError: a layout that the family does not have in transformers.
    """
    keys = Keys(checkpoint, decoder.name)
    only = {one.setting: next(iter(one.allowed), None) for one in decoder.only}
    epsilon = decoder.norms.epsilon, EPSILONS[decoder.norms.kind]
    config = {
        **decoder_config(keys, decoder.classes[0], decoder.model_type, epsilon),
        **rope_config(keys, decoder.rope.theta),
        **({"head_dim": keys.head_size} if decoder.attention.sized else {}),
        **{name: only.get(name, flag) for name, flag in _biases(decoder, keys, only).items()},
        **decoder.written,
        **_scalars(decoder, keys),
        **(_experts(decoder.experts, keys) if decoder.experts else {}),
        **_norm_flag(decoder, keys),
        **(window_config(decoder.windows, keys) if decoder.windows else {}),
        **only,
    }
    if decoder.rope.partly:
        count = keys.whole("rope.dimension_count", default=keys.head_size)
        config["partial_rotary_factor"] = count / keys.head_size
    return config


def _biases(decoder: Decoder, keys: Keys, only: dict[str, Any]) -> dict[str, bool]:
    """The settings that say which linear layers have biases."""
    groups: dict[str, list[str]] = {}
    parts = ("q", "k", "v")
    own = ["attn_qkv"] if decoder.attention.fused else [f"attn_{part}" for part in parts]
    stated = [
        (decoder.attention.bias, own),
        (decoder.attention.output_bias, ["attn_output"]),
    ]
    if decoder.feed_forward:
        names = [gguf for gguf, _ in decoder.feed_forward.names]
        stated.append((decoder.feed_forward.bias, names))
    for flag, names in stated:
        if isinstance(flag, str):
            groups.setdefault(flag, []).extend(names)
    return {
        flag: flag not in only and bias_flag(keys, tuple(f"blk.{{i}}.{n}.bias" for n in names))
        for flag, names in groups.items()
    }


def _norm_flag(decoder: Decoder, keys: Keys) -> dict[str, bool]:
    normed = decoder.attention.qk_normed
    return (
        {normed: keys.has_tensor("blk.{i}.attn_q_norm.weight")} if isinstance(normed, str) else {}
    )


def _scalars(decoder: Decoder, keys: Keys) -> dict[str, Any]:
    return {
        scalar.setting: None
        if scalar.optional and not keys.has(scalar.key)
        else keys.real(scalar.key, default=scalar.default)
        for scalar in decoder.scalars
    }


def _experts(experts: Experts, keys: Keys) -> dict[str, Any]:
    config: dict[str, Any] = {
        experts.count: keys.whole("expert_count"),
        experts.used: keys.whole("expert_used_count"),
    }
    if experts.sized:
        config[experts.size] = keys.whole("expert_feed_forward_length")
    if experts.shared:
        config[experts.shared.size] = keys.whole(experts.shared.key)
    if experts.leading:
        config[experts.leading] = keys.value("leading_dense_block_count") or 0
    if experts.scale:
        config[experts.scale] = keys.real("expert_weights_scale", default=1.0)
    if experts.normalised:
        config[experts.normalised] = bool(keys.value("expert_weights_norm"))
    return config
