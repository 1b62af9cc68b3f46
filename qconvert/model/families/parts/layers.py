"""Of what kind each layer is, in models that mix them."""

from collections.abc import Collection, Mapping

from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts.common import MOST_BLOCKS, block_count
from qconvert.model.types import Config

RECURRENT, FULL = "linear_attention", "full_attention"
OLDER = {"mamba": RECURRENT, "attention": FULL}
"""What transformers called them before."""


def kinds_of_layers(
    config: Config,
    setting: str,
    known: Collection[str],
    count: int | None = None,
    older: Mapping[str, str] = OLDER,
) -> list[str]:
    """The kinds, by the names of today.

    Args:
        setting: a list of names.
        known: those that there are.
        count: how many there must be; None for any number.
        older: other names, and what they stand for.

    Raises:
        CheckpointError: it is no such list.
        UnsupportedError: a name is none of those.
    """
    given = config.get(setting)
    fits = isinstance(given, list) and 0 < len(given) <= MOST_BLOCKS
    if not isinstance(given, list) or not fits or count not in (None, len(given)):
        raise CheckpointError(
            f"config.json: {setting} is no list of {'some' if count is None else count} names"
        )
    names = [older.get(str(name), str(name)) for name in given]
    if strange := [name for name in names if name not in known]:
        raise UnsupportedError(
            f"config.json: {setting} has {strange[0]!r:.60}; known: {' and '.join(known)}"
        )
    return names


def blocks_with(kinds: list[str], *wanted: str) -> tuple[int, ...]:
    """The numbers of the blocks of some kinds."""
    return tuple(block for block, kind in enumerate(kinds) if kind in wanted)


def dense_and_sparse(config: Config, leading: int) -> list[str]:
    """Which layers have experts: "dense" or "sparse" for each.

    Args:
        leading: how many at the beginning have none, where nothing is said.
    """
    count = block_count(config)
    if config.get("mlp_layer_types") is None:
        return ["dense" if block < leading else "sparse" for block in range(count)]
    return kinds_of_layers(config, "mlp_layer_types", ("dense", "sparse"), count)
