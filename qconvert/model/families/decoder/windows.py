"""Which blocks of a decoder see a window only, in settings and in GGUF's keys."""

from typing import Any

from qconvert.checkpoint.metadata import Metadata, f32, flags, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.decoder.types import Windows
from qconvert.model.families.parts.common import block_count, real, whole
from qconvert.model.families.parts.keys import Keys
from qconvert.model.families.parts.rope import sliding_rope
from qconvert.model.types import Config

KINDS = ("full_attention", "sliding_attention")


def sliding_blocks(windows: Windows, config: Config) -> list[bool]:
    """Of each block, whether it sees a window only.

    Raises:
        CheckpointError, UnsupportedError: see `stated_windows`.
    """
    stated = stated_windows(config)
    if stated is not None:
        return stated
    interval = windows.interval
    if windows.older:
        interval = whole(config, *windows.older, default=interval)
    return every(interval, block_count(config))


def stated_windows(config: Config) -> list[bool] | None:
    """The same, as `layer_types` says it; None where nothing does.

    Raises:
        CheckpointError: it is no list of the blocks' kinds.
        UnsupportedError: it names a kind that is neither.
    """
    count = block_count(config)
    kinds = config.get("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != count:
        raise CheckpointError(f"config.json: layer_types is no list of {count} names")
    if any(kind not in KINDS for kind in kinds):
        raise UnsupportedError(f"config.json: layer_types knows {' and '.join(KINDS)} only")
    return [kind == "sliding_attention" for kind in kinds]


def every(interval: int, count: int) -> list[bool]:
    """Full attention in every block of that number, windows in the others."""
    return [(block + 1) % interval != 0 for block in range(count)]


def window_metadata(windows: Windows, config: Config) -> Metadata:
    """The window, and the pattern where it is not llama.cpp's own."""
    sliding = sliding_blocks(windows, config)
    if not (any(sliding) or windows.always):
        return {}
    keys: Metadata = {"attention.sliding_window": u32(whole(config, "sliding_window"))}
    if windows.theta:
        keys["rope.freq_base_swa"] = f32(real(sliding_rope(config), "rope_theta"))
    if sliding != every(windows.built_in, len(sliding)):
        keys["attention.sliding_window_pattern"] = flags(sliding)
    return keys


def stored_pattern(windows: Windows, keys: Keys) -> list[bool]:
    """The same of a file: a list, an interval, or llama.cpp's own idea of it.

    Raises:
        CheckpointError: a list that is not of the blocks.
    """
    pattern = keys.value("attention.sliding_window_pattern")
    if not keys.has("attention.sliding_window"):
        return [False] * keys.blocks
    if pattern is None or type(pattern) is int:
        interval = keys.whole("attention.sliding_window_pattern", default=windows.built_in)
        return every(interval, keys.blocks)
    if not isinstance(pattern, list) or len(pattern) != keys.blocks:
        raise CheckpointError(
            f"{keys.name}.attention.sliding_window_pattern is no list of {keys.blocks} flags"
        )
    return [bool(is_sliding) for is_sliding in pattern]


def window_config(windows: Windows, keys: Keys) -> dict[str, Any]:
    """The settings of windows, from a file."""
    sliding = stored_pattern(windows, keys)
    config: dict[str, Any] = {"layer_types": [KINDS[is_sliding] for is_sliding in sliding]}
    if windows.theta:
        config["rope_local_base_freq"] = keys.real("rope.freq_base_swa", default=windows.theta)
    if any(sliding):
        config["sliding_window"] = keys.whole("attention.sliding_window")
    return config
