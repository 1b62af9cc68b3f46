"""Hunyuan-A13B: the dense one with experts in every layer and one that all tokens go through, all
of one size."""

from dataclasses import replace
from typing import Any

from qconvert.checkpoint.metadata import Metadata
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import UnsupportedError
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_limits
from qconvert.model.families.decoder.rules import decoder_rules
from qconvert.model.families.decoder.settings import decoder_settings
from qconvert.model.families.decoder.types import Experts, Shared
from qconvert.model.families.hunyuan import dense
from qconvert.model.types import Config, Rule

SHARED_SIZE = "shared_intermediate_size"
"""A name of this program's own: transformers' settings have one size for all."""

DECODER = replace(
    dense.DECODER,
    name="hunyuan-moe",
    model_type="hunyuan_v1_moe",
    classes=("HunYuanMoEV1ForCausalLM",),
    defaults={**dense.DEFAULTS, "num_experts": 1, "moe_topk": 1},
    aliases={"num_local_experts": "num_experts", "num_experts_per_tok": "moe_topk"},
    feed_forward=None,
    experts=Experts(
        used="moe_topk",
        size="intermediate_size",
        routers=("mlp.gate.wg.weight",),
        shared=Shared(
            SHARED_SIZE,
            names=tuple(f"mlp.shared_mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
        ),
    ),
)
PER_BLOCK = ("num_experts", "moe_topk", "moe_intermediate_size", "num_shared_expert")


def _even(config: Config) -> dict[str, Any]:
    """The settings with one number where there is one for each block.

    Raises:
        UnsupportedError: the blocks differ, or experts are of another size than the rest.
    """
    even: dict[str, Any] = {}
    for name in PER_BLOCK:
        value = config.get(name)
        if isinstance(value, list) and value:
            if any(other != value[0] for other in value):
                raise UnsupportedError(
                    f"config.json: {name} differs from block to block; llama.cpp has one for all"
                )
            value = value[0]
        even |= {} if value is None else {name: value}
    usual = config["intermediate_size"]
    if even.get("moe_intermediate_size", usual) != usual or even.get("num_shared_expert", 1) != 1:
        raise UnsupportedError(
            "config.json: transformers runs this family with experts of intermediate_size and one "
            "for all tokens"
        )
    return {**config, **even, SHARED_SIZE: usual}


def metadata(config: Config) -> Metadata:
    return dense.hunyuan_keys(DECODER, _even(config))


def limits(config: Config) -> None:
    decoder_limits(DECODER, _even(config))


def rules(config: Config) -> tuple[Rule, ...]:
    return decoder_rules(DECODER, _even(config))


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    config = decoder_settings(DECODER, checkpoint)
    del config[SHARED_SIZE]
    return config


HUNYUAN_MOE = replace(
    family_of(DECODER), metadata=metadata, limits=limits, rules=rules, config=config_json
)
