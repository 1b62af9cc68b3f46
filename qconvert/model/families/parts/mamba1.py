"""Layers of state spaces as Mamba has them (arXiv 2312.00752): a decay for each channel and each
number that it keeps, and steps of a rank of their own.

    in_proj [x | gate, hidden]    conv1d [x, 1, taps]     x_proj [steps | B | C, inner]
    dt_proj [inner, steps]        A_log [inner, state]    D [inner]

Source: llama.cpp's src/models/mamba-base.cpp, transformers' models/mamba.
"""

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.model.families.parts.common import prefixed, whole
from qconvert.model.transforms import Function
from qconvert.model.types import Config, Rule

SHAPES = {
    "ssm_in.weight": ("state_in", "hidden"),
    "ssm_conv1d.weight": ("linear_value", "kernel"),
    "ssm_conv1d.bias": ("linear_value",),
    "ssm_x.weight": ("state_steps", "linear_value"),
    "ssm_dt.weight": ("linear_value", "linear_heads"),
    "ssm_dt.bias": ("linear_value",),
    "ssm_a": ("linear_value", "linear_head"),
    "ssm_d": ("linear_value",),
    "ssm_out.weight": ("hidden", "linear_value"),
}


def rank_of_steps(config: Config, name: str) -> int:
    """Stated, or a sixteenth of the channels."""
    if config.get(name) == "auto":
        return -(-whole(config, "hidden_size") // 16)
    return whole(config, name)


def metadata(name: str, inner: int, taps: int, state: int, steps: int) -> Metadata:
    """
    Args:
        name: `general.architecture`.
        inner, taps, state, steps: channels, of the convolution, numbers that each channel keeps,
            and the rank of steps.
    """
    keys = {
        "ssm.conv_kernel": u32(taps),
        "ssm.inner_size": u32(inner),
        "ssm.state_size": u32(state),
        "ssm.time_step_rank": u32(steps),
    }
    return prefixed(name, keys)


def layer(source: str, inner: int, taps: int) -> tuple[Rule, ...]:
    """The table of such a layer.

    Args:
        source: what Hugging Face's names begin with.
    """
    return (
        Rule("blk.{i}.ssm_in.weight", source + "in_proj.weight"),
        Rule("blk.{i}.ssm_conv1d.weight", source + "conv1d.weight", stored=(inner, 1, taps)),
        Rule("blk.{i}.ssm_conv1d.bias", source + "conv1d.bias"),
        Rule("blk.{i}.ssm_x.weight", source + "x_proj.weight"),
        Rule("blk.{i}.ssm_dt.weight", source + "dt_proj.weight"),
        Rule("blk.{i}.ssm_dt.bias", source + "dt_proj.bias"),
        Rule("blk.{i}.ssm_a", source + "A_log", steps=(Function("-exp(x)"),)),
        Rule("blk.{i}.ssm_d", source + "D"),
        Rule("blk.{i}.ssm_out.weight", source + "out_proj.weight"),
    )
