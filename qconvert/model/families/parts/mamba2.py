"""Layers of state spaces as Mamba 2 has them (arXiv 2405.21060): one projection, a short
convolution, a decay for each head, and a norm over groups of channels.

    in_proj      [gate | x | B | C | steps, hidden]
    conv1d       [x | B | C, 1, taps]
    A_log, D     [heads]        GGUF has -exp(A_log) and D, each [heads, 1]
    norm         [inner]        GGUF has it [groups, inner / groups]

Source: llama.cpp's src/models/mamba-base.cpp, transformers' models/mamba2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts.common import prefixed
from qconvert.model.transforms import Function
from qconvert.model.types import Config, Rule

NO_LIMIT = 2**20
"""What llama.cpp's converter says for the context of models without positions."""

SHAPES = {
    "ssm_in.weight": ("mamba_in", "hidden"),
    "ssm_conv1d.weight": ("linear_channels", "kernel"),
    "ssm_conv1d.bias": ("linear_channels",),
    "ssm_dt.bias": ("linear_heads",),
    "ssm_a": ("linear_heads", "one"),
    "ssm_d": ("linear_heads", "one"),
    "ssm_norm.weight": ("mamba_groups", "mamba_group"),
    "ssm_out.weight": ("hidden", "linear_value"),
}


@dataclass(frozen=True)
class Sizes:
    """Of such a layer.

    Attributes:
        heads, head: how many, and channels of each.
        groups: of heads that share B and C.
        state: numbers that each channel keeps.
        taps: of the convolution.
    """

    heads: int
    head: int
    groups: int
    state: int
    taps: int

    @property
    def inner(self) -> int:
        return self.heads * self.head

    @property
    def channels(self) -> int:
        """Of the convolution."""
        return self.inner + 2 * self.groups * self.state


def metadata(name: str, sizes: Sizes) -> Metadata:
    keys = {
        "ssm.conv_kernel": u32(sizes.taps),
        "ssm.state_size": u32(sizes.state),
        "ssm.group_count": u32(sizes.groups),
        "ssm.inner_size": u32(sizes.inner),
        "ssm.time_step_rank": u32(sizes.heads),
    }
    return prefixed(name, keys)


def check(sizes: Sizes) -> None:
    """Raises CheckpointError: heads cannot be shared out among the groups."""
    if sizes.heads % sizes.groups:
        raise CheckpointError(f"config.json: {sizes.heads} heads of {sizes.groups} groups")


def check_steps(config: Config) -> None:
    """Refuse bounds of steps, which llama.cpp does not have.

    Raises:
        UnsupportedError: there are some.
        CheckpointError: what is said of them is no pair of numbers.
    """
    bounds = config.get("time_step_limit")
    if bounds is None:
        return
    if not isinstance(bounds, Sequence) or isinstance(bounds, str) or len(bounds) != 2:
        raise CheckpointError(f"config.json: time_step_limit is {bounds!r:.60}, not two numbers")
    if list(bounds) != [0.0, float("inf")]:
        raise UnsupportedError(
            f"config.json: time_step_limit = {bounds!r:.60} cannot be expressed in GGUF",
            "llama.cpp takes steps as they are",
        )


def layer(source: str, sizes: Sizes, normed: bool = True) -> tuple[Rule, ...]:
    """The table of such a layer.

    Args:
        source: what Hugging Face's names begin with.
        normed: there is a norm behind the gate.
    """
    heads = (sizes.heads,)
    kernel = (sizes.channels, 1, sizes.taps)
    norm = Rule("blk.{i}.ssm_norm.weight", source + "norm.weight", stored=(sizes.inner,))
    decay = (Function("-exp(x)"),)
    return (
        Rule("blk.{i}.ssm_in.weight", source + "in_proj.weight"),
        Rule("blk.{i}.ssm_conv1d.weight", source + "conv1d.weight", stored=kernel),
        Rule("blk.{i}.ssm_conv1d.bias", source + "conv1d.bias"),
        Rule("blk.{i}.ssm_dt.bias", source + "dt_bias"),
        Rule("blk.{i}.ssm_a", source + "A_log", stored=heads, steps=decay),
        Rule("blk.{i}.ssm_d", source + "D", stored=heads),
        *((norm,) if normed else ()),
        Rule("blk.{i}.ssm_out.weight", source + "out_proj.weight"),
    )
