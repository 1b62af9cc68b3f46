"""What a model family is: how its tensors and hyper-parameters are called on both sides.

A family is data: a table of `Rule`s, read in one direction to write GGUF and in the other to
write a Hugging Face directory, and two functions between `config.json` and GGUF's metadata.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from qconvert.checkpoint.metadata import Metadata
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.folding import Fold
from qconvert.model.transforms import Step

Config = Mapping[str, Any]

SLAB_WEIGHTS = 1 << 18
"""Weights of a slab: large enough to hide Python's overhead, small enough to stay in the cache."""


@dataclass(frozen=True)
class Rule:
    """One line of a family's table: a GGUF tensor and where its rows come from.

    `{i}` stands for the number of the block and `{e}` for that of the expert; a GGUF tensor
    whose source has an `{e}` is the stack of all experts.

    Attributes:
        gguf: "blk.{i}.attn_q.weight".
        hf: "model.layers.{i}.self_attn.q_proj.weight". Several rules may read one fused source.
        rows: first and last+1 row of the source that this tensor takes; None takes all. Of a
            source with three dimensions (fused experts), rows of each matrix.
        period: `rows` are those of each so many rows (heads that lie query, key, value by turns).
        runs: in place of `rows`, first and last+1 row of each run of the source's rows, in the
            order that the tensor has them (heads in another order).
        run_scales: what the rows of each run are multiplied with; none for all of them.
        heads: for rotary pairs: llama.cpp wants neighbours, Hugging Face halves. The number of
            heads over which the rows are regrouped; 0 leaves them.
        add: what is added to each element (Gemma's norms are stored as weight - 1).
        transpose: the source is stored [in, out] (GPT-2's Conv1D); of several matrices each. `rows`
            are those of [out, in].
        transpose_on_load: though it is stored so, transformers has it [out, in] once it is loaded,
            and may write it that way.
        turned: each matrix that is taken is [out, in], and the tensor has it [in, out]: keys' rows,
            with which queries are multiplied instead (MLA).
        optional: the checkpoint may lack it (biases, tied outputs).
        stored: the shape of the source, where it is no matter of rows: the elements are the same;
            or of a bias, some of whose elements `rows` are, where these are no half of it.
        steps: what becomes of the values, from Hugging Face's to GGUF's.
        blocks: the numbers of the blocks that it holds for, and has to be there; None for all.
        copies: how many sources `{e}` stands for, where these are no experts.
        blank: llama.cpp wants it there and computes nothing with it: zeros where the source is not.
    """

    gguf: str
    hf: str
    rows: tuple[int, int] | None = None
    heads: int = 0
    add: float = 0.0
    transpose: bool = False
    transpose_on_load: bool = False
    optional: bool = False
    period: int = 0
    runs: tuple[tuple[int, int], ...] = ()
    run_scales: tuple[float, ...] = ()
    turned: bool = False
    stored: tuple[int, ...] = ()
    steps: tuple[Step, ...] = ()
    blocks: tuple[int, ...] | None = None
    copies: int = 0
    blank: bool = False

    def holds_for(self, block: int) -> bool:
        return self.blocks is None or block in self.blocks


@dataclass(frozen=True)
class Rows:
    """Each `stride`-th row from `start` to `stop` of a source tensor, its outer dimensions
    flattened; `steps` are what becomes of their values, before they are put in place."""

    source: str
    start: int
    stop: int
    stride: int = 1
    steps: tuple[Step, ...] = ()

    def __len__(self) -> int:
        return len(range(self.start, self.stop, self.stride))


@dataclass(frozen=True)
class TensorMap:
    """One GGUF tensor and how it is made, row by row, from a checkpoint's tensors.

    Attributes:
        name: GGUF's name.
        shape: row-major, outermost dimension first.
        parts: runs of source rows whose concatenation is the tensor's rows, in order; with
            `transpose`, its columns.
        order: within each group of `len(order)` output rows, row k comes from source row
            `order[k]` of that group; empty for the identity. Part boundaries are multiples of it.
            Of a tensor with one dimension (a bias), elements are grouped in place of rows.
        add: added to every element.
        transpose: the source is [columns, rows]; of several matrices each is.
        reshaped: the source has other rows, and the same elements.
        steps: what becomes of the values, once they are in place and `add` is added.
        value: for tensors that no source holds (rotary factors): the float32 values, flat.
        unused: llama.cpp wants it and computes nothing with it, nor does transformers.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[Rows, ...] = ()
    order: tuple[int, ...] = ()
    add: float = 0.0
    transpose: bool = False
    reshaped: bool = False
    steps: tuple[Step, ...] = ()
    value: np.ndarray | None = None
    unused: bool = False

    @property
    def columns(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        return prod(self.shape[:-1])

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def matrix_rows(self) -> int:
        """Rows of one matrix."""
        return prod(self.shape[-2:-1])

    @property
    def is_computed(self) -> bool:
        """Whether its values are others than those of the rows that it is made of."""
        changed = self.add or self.transpose or self.reshaped or self.steps
        changed = changed or any(part.steps for part in self.parts)
        return self.value is not None or bool(changed)


@dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
        name: `general.architecture` in GGUF ("llama").
        classes: the names in `config.json`'s `architectures` that it serves.
        metadata: settings -> GGUF's `{name}.*` keys, as near as they come.
        rules: settings -> the table of tensors.
        defaults: what transformers takes for settings that `config.json` leaves out.
        aliases: other names of settings, which count before those that the family reads.
        limits: settings -> None; raises UnsupportedError where llama.cpp would run the model in
            another way than transformers.
        caveats: settings -> what llama.cpp computes a little otherwise, in words.
        constants: settings -> tensors that no checkpoint holds (name -> float32 values).
        ignored: patterns (regular expressions, matched in full) of source tensors that GGUF has
            no place for (rotary tables, pooling heads).
        dropped: settings -> further such patterns.
        config: an opened GGUF file -> `config.json`, where the family can be written back.
        shapes: by GGUF name without its block, the sizes that make the shape of a tensor, where
            they differ from those in `model.shapes`.
        folds: where inputs can be divided by channel.
        experts: it has experts.
        mark: the key that tells its files from those of another family of that name.
        encoder: it embeds texts and does not write them.
        unstored: parts with linear layers that transformers builds whether stored or not.
        pooled: checkpoints may be embedding models.
        output_is_embedding: llama.cpp takes the embedding for the output, whatever there is.
        stand_in: the class that computes texts alike, where transformers has none for the language
            model by itself.
        stand_in_settings: what that class has to be told besides.
        first_position: settings -> the row of the table of positions that a text begins with.
        unpacked: why transformers does not load packed layers of its classes; empty where it does.
        dense: llama.cpp knows layers behind the pooling.
        numbers: by GGUF key, the name of a tensor of one number in each block that becomes the
            key's list.
        window_by_choice: a window in the configuration counts only where `use_sliding_window` is.
    """

    name: str
    classes: tuple[str, ...]
    metadata: Callable[[Config], Metadata]
    rules: Callable[[Config], tuple[Rule, ...]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    limits: Callable[[Config], None] = lambda settings: None
    caveats: Callable[[Config], tuple[str, ...]] = lambda settings: ()
    constants: Callable[[Config], dict[str, np.ndarray]] = lambda config: {}
    ignored: tuple[str, ...] = ()
    dropped: Callable[[Config], tuple[str, ...]] = lambda settings: ()
    config: Callable[[Checkpoint], dict[str, Any]] | None = None
    shapes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    folds: tuple[Fold, ...] = ()
    experts: bool = False
    mark: str = ""
    encoder: bool = False
    unstored: tuple[str, ...] = ()
    pooled: bool = False
    output_is_embedding: bool = False
    stand_in: str = ""
    stand_in_settings: Mapping[str, Any] = field(default_factory=dict)
    first_position: Callable[[Config], int] = lambda settings: 0
    window_by_choice: bool = False
    unpacked: str = ""
    dense: bool = False
    numbers: Mapping[str, str] = field(default_factory=dict)
