"""Queries, keys and values in one matrix, head by head, of which llama.cpp wants all queries first,
then all keys, then all values.

    [groups * (queries + key + value) * size, hidden]    each group has one key and one value head
"""

from qconvert.model.transforms import Columns
from qconvert.model.types import Rule


def runs_of_heads(size: int, heads: int, groups: int) -> tuple[tuple[int, int], ...]:
    """First and last+1 row of each head, in llama.cpp's order.

    Args:
        size: rows of a head.
        heads: of queries.
        groups: of heads that share a key and a value.
    """
    queries = heads // groups
    wide = queries + 2
    order = [group * wide + head for group in range(groups) for head in range(queries)]
    order += [group * wide + queries for group in range(groups)]
    order += [group * wide + queries + 1 for group in range(groups)]
    return tuple((head * size, (head + 1) * size) for head in order)


def fused_attention(source: str, runs: tuple[tuple[int, int], ...]) -> tuple[Rule, Rule]:
    """The lines of the weight and of its bias.

    Args:
        source: Hugging Face's name of the matrix.
    """
    order = tuple(row for start, stop in runs for row in range(start, stop))
    return (
        Rule("blk.{i}.attn_qkv.weight", source + ".weight", runs=runs),
        Rule("blk.{i}.attn_qkv.bias", source + ".bias", steps=(Columns(order),)),
    )
