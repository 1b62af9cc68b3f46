"""GGUF's keys of a plain decoder, and what of its settings llama.cpp would run in another way."""

from qconvert.checkpoint.metadata import Metadata, f32, flag, u32
from qconvert.model.families.decoder.rules import dense_blocks, shared_expert
from qconvert.model.families.decoder.types import Decoder, Experts
from qconvert.model.families.decoder.windows import window_metadata
from qconvert.model.families.parts.common import (
    EPSILONS,
    decoder_metadata,
    expect,
    head_size,
    heads_fill_width,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.parts.rope import check_rope, rope_metadata, rope_parameters
from qconvert.model.types import Config


def decoder_keys(decoder: Decoder, config: Config) -> Metadata:
    """`{name}.*`, in the order of a file."""
    epsilon = decoder.norms.epsilon, EPSILONS[decoder.norms.kind]
    keys: Metadata = {}
    usual = {
        **decoder_metadata(decoder.name, config, epsilon),
        **rope_metadata(decoder.name, config),
    }
    for scalar in decoder.scalars:
        if not scalar.optional or config.get(scalar.setting) is not None:
            keys[scalar.key] = f32(real(config, scalar.setting))
    if decoder.rope.counted:
        keys["rope.dimension_count"] = u32(turned(config))
    if decoder.windows:
        keys |= window_metadata(decoder.windows, config)
    if decoder.experts:
        keys |= _experts(decoder.experts, config)
    return {**usual, **prefixed(decoder.name, keys)}


def turned(config: Config) -> int:
    """The elements of each head that turn."""
    return int(real(rope_parameters(config), "partial_rotary_factor") * head_size(config))


def _experts(experts: Experts, config: Config) -> Metadata:
    keys: Metadata = {
        "expert_count": u32(whole(config, experts.count)),
        "expert_used_count": u32(whole(config, experts.used)),
    }
    if experts.sized:
        keys["expert_feed_forward_length"] = u32(whole(config, experts.size))
    if shared := shared_expert(experts, config):
        keys[shared.key] = u32(whole(config, shared.size))
    if experts.leading:
        keys["leading_dense_block_count"] = u32(len(dense_blocks(experts, config)))
    if experts.gating:
        keys["expert_gating_func"] = u32(experts.gating)
    if experts.scale:
        keys["expert_weights_scale"] = f32(real(config, experts.scale))
    if experts.normalised:
        keys["expert_weights_norm"] = flag(bool(config.get(experts.normalised)))
    return keys


def decoder_limits(decoder: Decoder, config: Config) -> None:
    """Raises UnsupportedError: llama.cpp would run the model in another way."""
    if decoder.attention.square:
        heads_fill_width(config)
    for only in decoder.only:
        expect(config, only.setting, only.allowed, only.why)
    check_rope(config, decoder.rope.kinds, decoder.rope.partly)
