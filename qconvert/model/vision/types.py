"""What makes images into what a language model reads: a vision tower with its projector, which
llama.cpp keeps in a GGUF file of its own (architecture `clip`).

A projector is data: a table of `Line`s, and a function from `config.json` to GGUF's `clip.*` keys.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from qconvert.checkpoint.metadata import Metadata
from qconvert.model.types import Config


@dataclass(frozen=True)
class Line:
    """A GGUF tensor and where its rows come from.

    Attributes:
        gguf: "v.blk.0.attn_q.weight".
        hf: the source's name without what wraps it: "visual.blocks.0.attn.qkv.weight".
        shape: GGUF's, row-major.
        stored: the source's shape, where it is another.
        runs: first and last+1 row of each run of the source's rows that the tensor takes (of a
            source with one dimension: elements of one run); none for all.
        columns: the order of the source's columns, before its elements are put in other rows.
        heads: for rotary pairs, as in `Rule`: over how many heads rows are regrouped.
        add: what is added to each element.
        optional: the checkpoint may lack it.
    """

    gguf: str
    hf: str
    shape: tuple[int, ...]
    stored: tuple[int, ...] = ()
    runs: tuple[tuple[int, int], ...] = ()
    columns: tuple[int, ...] = ()
    heads: int = 0
    add: float = 0.0
    optional: bool = False


@dataclass(frozen=True)
class Extras:
    """What lies beside `config.json`.

    Attributes:
        images: how images are prepared (`preprocessor_config.json`).
        tokens: reads the numbers of added tokens, by what they stand for; most projectors need
            none.
    """

    images: Mapping[str, object]
    tokens: Callable[[], Mapping[str, int]]


@dataclass(frozen=True)
class Projector:
    """A vision tower with its projector.

    Attributes:
        name: `clip.projector_type`; "" where `metadata` says it.
        classes: the names in `config.json`'s `architectures` that have it.
        metadata: `config.json` and what lies beside it -> `clip.*` keys.
        lines: the same -> the table of tensors.
        own: a pattern (regular expression) of how the tensors that it is made of begin, without
            what wraps their names.
        wrappers: what may stand before such names besides: "vision_model.".
        fixed: GGUF's names of tensors that have one type, "F32" or "F16", whatever is asked for.
        ignored: patterns, matched in full, of its tensors that llama.cpp does not compute with.
        limits: config -> None; raises UnsupportedError where llama.cpp would see other things
            than transformers.
        caveats: config -> what llama.cpp computes a little otherwise, in words.
    """

    name: str
    classes: tuple[str, ...]
    metadata: Callable[[Config, Extras], Metadata]
    lines: Callable[[Config, Extras], tuple[Line, ...]]
    own: str
    wrappers: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    limits: Callable[[Config], None] = lambda config: None
    caveats: Callable[[Config], tuple[str, ...]] = lambda config: ()
