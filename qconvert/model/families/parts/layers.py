"""Of what kind each layer is, in models that mix them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts.common import MOST_BLOCKS, block_count
from qconvert.model.types import Config, Rule

RECURRENT, FULL, SLIDING = "linear_attention", "full_attention", "sliding_attention"
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
    if (
        not isinstance(given, list)
        or not 0 < len(given) <= MOST_BLOCKS
        or count not in (None, len(given))
    ):
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


def other_blocks(config: Config, blocks: Collection[int]) -> tuple[int, ...]:
    """The numbers of all blocks but these."""
    return tuple(block for block in range(block_count(config)) if block not in blocks)


def only_in(blocks: tuple[int, ...], rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Lines of a table for some blocks; none where there are no such blocks."""
    return tuple(replace(rule, blocks=blocks) for rule in rules) if blocks else ()


def dense_and_sparse(config: Config, leading: int) -> list[str]:
    """Which layers have experts: "dense" or "sparse" for each.

    Args:
        leading: how many at the beginning have none, where nothing is said.
    """
    count = block_count(config)
    if config.get("mlp_layer_types") is None:
        return ["dense" if block < leading else "sparse" for block in range(count)]
    return kinds_of_layers(config, "mlp_layer_types", ("dense", "sparse"), count)


def leading_dense(kinds: list[str]) -> int:
    """How many layers at the beginning have no experts.

    Args:
        kinds: of `dense_and_sparse`.

    Raises:
        UnsupportedError: others have none either.
    """
    dense = kinds.count("dense")
    if "dense" in kinds[dense:]:
        raise UnsupportedError("config.json: llama.cpp wants layers without experts first")
    return dense
