"""Mamba (arXiv 2312.00752) and Mamba 2 (2405.21060): layers of state spaces alone.

They have neither positions nor attention. Files of these families go one way: they are not written
back as directories.
"""

from qconvert.checkpoint.metadata import Metadata, f32, flag, u32
from qconvert.errors import CheckpointError
from qconvert.model.families.parts import mamba1, mamba2
from qconvert.model.families.parts.common import (
    EPSILONS,
    SILU,
    block_count,
    expect,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.parts.lines import DRAWN, IGNORED
from qconvert.model.types import Config, Family, Rule

NAME, NAME_OF_2 = "mamba", "mamba2"
ROOT = "backbone."
BLOCK = ROOT + "layers.{i}."
MIXER = BLOCK + "mixer."

DEFAULTS = {
    "vocab_size": 50_280,
    "hidden_size": 768,
    "state_size": 16,
    "num_hidden_layers": 32,
    "layer_norm_epsilon": 1e-5,
    "expand": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": "auto",
    "tie_word_embeddings": True,
}

DEFAULTS_OF_2 = {
    **DEFAULTS,
    "vocab_size": 32_768,
    "hidden_size": 4096,
    "state_size": 128,
    "num_hidden_layers": 64,
    "num_heads": 128,
    "head_dim": 64,
    "n_groups": 8,
    "tie_word_embeddings": False,
}


def _metadata(name: str, config: Config) -> Metadata:
    keys = {
        "block_count": u32(block_count(config)),
        "context_length": u32(mamba2.NO_LIMIT),
        "embedding_length": u32(whole(config, "hidden_size")),
        "feed_forward_length": u32(0),
        "attention.head_count": u32(0),
        EPSILONS["rms"]: f32(real(config, "layer_norm_epsilon")),
        "vocab_size": u32(whole(config, "vocab_size")),
    }
    return prefixed(name, keys)


def _inner(config: Config) -> int:
    return whole(config, "expand") * whole(config, "hidden_size")


def metadata(config: Config) -> Metadata:
    names = ("conv_kernel", "state_size")
    taps, state = (whole(config, name) for name in names)
    steps = mamba1.rank_of_steps(config, "time_step_rank")
    keys = mamba1.metadata(NAME, _inner(config), taps, state, steps)
    return {**_metadata(NAME, config), **keys, **prefixed(NAME, {"ssm.dt_b_c_rms": flag(False)})}


def metadata_of_2(config: Config) -> Metadata:
    return {**_metadata(NAME_OF_2, config), **mamba2.metadata(NAME_OF_2, sizes(config))}


def sizes(config: Config) -> mamba2.Sizes:
    names = ("num_heads", "head_dim", "n_groups", "state_size", "conv_kernel")
    return mamba2.Sizes(*(whole(config, name) for name in names))


def _limits(config: Config) -> None:
    expect(config, "hidden_act", SILU)
    expect(config, "use_bias", (False,))
    expect(config, "use_conv_bias", (True,))


def limits(config: Config) -> None:
    _limits(config)
    expect(config, "expand", (2,))


def limits_of_2(config: Config) -> None:
    _limits(config)
    own = sizes(config)
    mamba2.check(own)
    mamba2.check_steps(config)
    if own.inner != _inner(config):
        raise CheckpointError(
            f"config.json: {own.heads} heads of {own.head} are not {_inner(config)} channels"
        )


def _rules(mixer: tuple[Rule, ...]) -> tuple[Rule, ...]:
    return (
        Rule("token_embd.weight", ROOT + "embeddings.weight"),
        Rule("blk.{i}.attn_norm.weight", BLOCK + "norm.weight"),
        *mixer,
        Rule("output_norm.weight", ROOT + "norm_f.weight"),
        Rule("output.weight", "lm_head.weight", optional=True),
    )


def rules(config: Config) -> tuple[Rule, ...]:
    return _rules(mamba1.layer(MIXER, _inner(config), whole(config, "conv_kernel")))


def rules_of_2(config: Config) -> tuple[Rule, ...]:
    return _rules(mamba2.layer(MIXER, sizes(config)))


MAMBA = Family(
    name=NAME,
    classes=("MambaForCausalLM",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    limits=limits,
    ignored=IGNORED,
    shapes=mamba1.SHAPES,
    unpacked=DRAWN,
)

MAMBA2 = Family(
    name=NAME_OF_2,
    classes=("Mamba2ForCausalLM",),
    metadata=metadata_of_2,
    rules=rules_of_2,
    defaults=DEFAULTS_OF_2,
    limits=limits_of_2,
    ignored=IGNORED,
    shapes=mamba2.SHAPES,
    unpacked=DRAWN,
)
