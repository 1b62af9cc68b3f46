"""A family's table applied to a checkpoint: every GGUF tensor, and the source rows it is made of.

Lines of a table that make the same GGUF tensor are alternatives, for the names that different
versions of transformers gave to the same weights: the first one whose source is there counts.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from math import prod

import numpy as np

from qconvert.checkpoint.rows import have_equal_values
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import PlanError
from qconvert.model.families.parts.common import text_config
from qconvert.model.names import WRAPPER, bare_name
from qconvert.model.numbers import number_tensors
from qconvert.model.shapes import Sizes, empty_tensor, expected_shape, sizes_by_block
from qconvert.model.transforms import Scale, Some
from qconvert.model.types import Config, Family, Rows, Rule, TensorMap

OUTPUT = "lm_head.weight"
EMBEDDING, OUTPUT_WEIGHT = "token_embd.weight", "output.weight"
"""GGUF's names of the embedding, and of the output projection that it may stand for."""
PREDICTS = re.compile("CausalLM|LMHeadModel|ForConditionalGeneration")

Sources = Mapping[str, TensorInfo]


def map_tensors(
    family: Family, config: Config, tensors: Mapping[str, TensorInfo]
) -> tuple[tuple[TensorMap, ...], tuple[str, ...]]:
    """Every tensor of the GGUF file, in its order: tables, embeddings, blocks, output.

    Args:
        config: `config.json`.
        tensors: the checkpoint's, by name.

    Returns:
        The tensors, and the names of those source tensors that are left out: GGUF has no place
        for them (rotary tables, pooling heads, a vision tower), they are tied, or nothing is
        known of them (`unknown_to`).

    Raises:
        PlanError: a tensor is missing or has another shape than the configuration says.
        CheckpointError: the configuration cannot be read.
        UnsupportedError: it says what GGUF cannot.
    """
    settings = text_config(family, config)
    sizes = sizes_by_block(family.name, family.metadata(settings))
    sources = _sources(tensors)
    if settings.get("tie_word_embeddings") is True:
        _tie_output(sources, family.rules(settings))
    constants = family.constants(settings).items()
    mapped = [TensorMap(name, value.shape, value=value) for name, value in constants]
    for name, rules in in_file_order(family.rules(settings), sizes(0)["blocks"]):
        made = _make(name, rules, sources, family, sizes)
        if made is not None:
            mapped.append(made)
    _check_output(settings, mapped)
    numbers = {
        info.name for of in number_tensors(family, settings, tensors).values() for info in of
    }
    return tuple(mapped), _left_out(tensors, mapped, numbers)


def _sources(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The checkpoint's tensors by their bare names."""
    sources: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        bare = bare_name(name)
        if bare in sources:
            raise PlanError(f"{name} and {sources[bare].name} are two names of one tensor")
        sources[bare] = info
    return sources


def _tie_output(sources: dict[str, TensorInfo], rules: Sequence[Rule]) -> None:
    """Leave out a stored output projection that is the embedding once more. One of other values
    counts, whatever the configuration says: transformers computes with what is stored. One that is
    stored alone is the embedding."""
    names = [bare_name(rule.hf) for rule in rules if rule.gguf == EMBEDDING]
    embedding = next((sources[name] for name in names if name in sources), None)
    output = sources.get(OUTPUT)
    if output is None:
        return
    if embedding is None or (output.elements and not embedding.elements):
        sources[names[0]] = sources.pop(OUTPUT)
    elif not output.elements or have_equal_values(output, embedding):
        del sources[OUTPUT]


def tied_name(family: Family, config: Config, tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Where a tied model has the embedding under the name of the output projection alone: that
    name -> the embedding's own."""
    settings = text_config(family, config)
    if settings.get("tie_word_embeddings") is not True:
        return {}
    sources = _sources(tensors)
    names = {rule.gguf: bare_name(rule.hf) for rule in reversed(family.rules(settings))}
    if EMBEDDING not in names:  # of a class that has no table
        return {}
    stored = sources.get(names[EMBEDDING])
    if stored is not None and stored.elements:
        return {}
    norm = names.get("output_norm.weight", "")
    root = sources[norm].name.removesuffix(norm) if norm in sources else "model."
    return {sources[OUTPUT].name: root + names[EMBEDDING]} if OUTPUT in sources else {}


def in_file_order(rules: tuple[Rule, ...], blocks: int) -> Iterator[tuple[str, tuple[Rule, ...]]]:
    """Each GGUF name with its alternatives; block by block where the table says `{i}`."""
    alternatives: dict[str, tuple[Rule, ...]] = {}
    for rule in rules:
        alternatives[rule.gguf] = (*alternatives.get(rule.gguf, ()), rule)
    names = list(alternatives)
    in_blocks = [name for name in names if "{i}" in name]
    begin = names.index(in_blocks[0])
    for name in names[:begin]:
        yield name, alternatives[name]
    for block in range(blocks):
        for name in in_blocks:
            of_block = tuple(
                replace(rule, hf=rule.hf.replace("{i}", str(block)))
                for rule in alternatives[name]
                if rule.holds_for(block)
            )
            if of_block:
                yield name.replace("{i}", str(block)), of_block
    for name in names[begin:]:
        if name not in in_blocks:
            yield name, alternatives[name]


def _make(
    name: str, rules: Sequence[Rule], sources: Sources, family: Family, sizes: Sizes
) -> TensorMap | None:
    """The tensor by its first line whose source is there; None for an optional one without."""
    for rule in rules:
        infos = _find(rule, sources, rule.copies or sizes(0)["experts"])
        if infos:
            if empty := next((info for info in infos if not info.elements), None):
                raise empty_tensor(empty)
            shape = expected_shape(family, name, sizes)
            if rule.transpose_on_load and infos[0].shape != _inward(rule, shape):
                rule = replace(rule, transpose=False)  # transformers writes it turned
            if rule.transpose and len(shape) > 1:
                return _transposed(name, rule, infos[0], shape)
            if rule.rows and name.endswith(".bias"):
                return _some_of_bias(name, rule, infos[0], shape)
            if rule.turned:
                return _turned(name, rule, infos[0], shape)
            if rule.stored and not rule.runs:
                return _other_rows(name, rule, infos[0], shape)
            return _stacked(name, rule, infos, shape)
    if all(rule.optional for rule in rules):
        return None
    if rules[0].blank:
        shape = expected_shape(family, name, sizes)
        return TensorMap(name, shape, value=np.zeros(shape, np.float32), unused=True)
    raise _missing(rules[0].hf.replace("{e}", "0"))


def _find(rule: Rule, sources: Sources, copies: int) -> list[TensorInfo]:
    """The sources of a line: one, or one for each expert; none if the first is missing."""
    if "{e}" not in rule.hf:
        info = sources.get(bare_name(rule.hf))
        return [info] if info else []
    bare = bare_name(rule.hf)
    found = [sources.get(bare.replace("{e}", str(expert))) for expert in range(copies)]
    if not found or found[0] is None:
        return []
    infos = [info for info in found if info is not None]
    if len(infos) < copies:
        raise _missing(rule.hf.replace("{e}", str(found.index(None))))
    return infos


def _transposed(name: str, rule: Rule, info: TensorInfo, shape: tuple[int, ...]) -> TensorMap:
    """Matrices stored [in, out]; biases beside them are as they should be."""
    steps, stored = _columns(rule, shape[-2])[1], _inward(rule, shape)
    if info.shape != stored:
        raise misshapen(info, stored)
    whole = (Rows(info.name, 0, info.rows, steps=steps),)
    return TensorMap(name, shape, whole, transpose=True, steps=rule.steps)


def _inward(rule: Rule, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a source that is stored [in, out]."""
    return (*shape[:-2], shape[-1], _columns(rule, shape[-2])[0])


def _some_of_bias(name: str, rule: Rule, info: TensorInfo, shape: tuple[int, ...]) -> TensorMap:
    """Elements of a bias that belong to the rows of a weight, of each matrix."""
    outputs, steps = _columns(rule, shape[-1])
    outputs = rule.stored[-1] if rule.stored else outputs
    if info.shape != (*shape[:-1], outputs):
        raise misshapen(info, (*shape[:-1], outputs))
    return TensorMap(name, shape, (Rows(info.name, 0, info.rows, steps=steps),), steps=rule.steps)


def _columns(rule: Rule, count: int) -> tuple[int, tuple[Some, ...]]:
    """How many columns a source has of which a line's rows take so many, and the step that takes
    them."""
    if rule.rows is None:
        return count, ()
    begin, end = rule.rows
    if not rule.period:
        return 2 * count, (Some(begin, end),)  # of gate and up
    whole = count * rule.period
    return whole, (Some(begin, whole, rule.period),)


def _turned(name: str, rule: Rule, info: TensorInfo, shape: tuple[int, ...]) -> TensorMap:
    """Matrices stored [out, in] as [in, out], each made of some rows of a period."""
    *outer, inputs, outputs = shape
    made = _stacked(name, rule, [info], (*outer, outputs, inputs))
    return replace(made, shape=shape, transpose=True)


def _other_rows(name: str, rule: Rule, info: TensorInfo, shape: tuple[int, ...]) -> TensorMap:
    """The elements of a source with other rows (squeezed, say)."""
    if info.shape != rule.stored or prod(shape) != info.elements:
        raise misshapen(info, rule.stored)
    whole = (Rows(info.name, 0, info.rows),)
    return TensorMap(name, shape, whole, add=rule.add, reshaped=True, steps=rule.steps)


def _stacked(
    name: str, rule: Rule, infos: Sequence[TensorInfo], shape: tuple[int, ...]
) -> TensorMap:
    """Rows of the sources, one behind the other."""
    stored = rule.stored or (shape[1:] if "{e}" in rule.hf else shape)
    parts: list[Rows] = []
    for info in infos:
        if rule.runs:
            taken = sum(stop - start for start, stop in rule.runs)
            fits = len(info.shape) > 1 and (taken, info.columns) == (prod(shape[:-1]), shape[-1])
            parts.extend(_runs(info, rule))
            fits = fits and max(part.stop for part in parts) <= info.rows
        elif rule.rows is None:
            fits = info.shape == stored
            parts.append(Rows(info.name, 0, info.rows))
        else:
            fits = _can_be_sliced(info, rule, shape)
            parts.extend(_slices(info, rule))
        if not fits:
            raise misshapen(info, stored)
    order = order_of_pairs(info.name, shape[0], rule.heads)
    made = TensorMap(name, shape, tuple(parts), order, rule.add, steps=rule.steps)
    return replace(made, unused=rule.blank)


def _runs(info: TensorInfo, rule: Rule) -> Iterator[Rows]:
    """The runs of a source's rows, multiplied where a line says so."""
    for number, (start, stop) in enumerate(rule.runs):
        scale = (Scale(rule.run_scales[number]),) if rule.run_scales else ()
        yield Rows(info.name, start, stop, steps=scale)


def _can_be_sliced(info: TensorInfo, rule: Rule, shape: tuple[int, ...]) -> bool:
    """A source without outer dimensions may have the matrices of a tensor below each other."""
    assert rule.rows is not None
    if not 2 <= len(info.shape) <= len(shape) or info.shape[-2] < rule.rows[1]:
        return False
    periods, rest = divmod(info.shape[-2], rule.period or info.shape[-2])
    taken = periods * (rule.rows[1] - rule.rows[0])
    wanted = shape if len(info.shape) == len(shape) else (prod(shape[:-1]), shape[-1])
    return not rest and (*info.shape[:-2], taken, info.shape[-1]) == wanted


def _slices(info: TensorInfo, rule: Rule) -> Iterator[Rows]:
    """The same rows of each matrix of a source, or of each period."""
    assert rule.rows is not None
    begin, end = rule.rows
    if rule.period and end == begin + 1:
        yield Rows(info.name, begin, info.rows - rule.period + end, rule.period)
        return
    for first in range(0, info.rows, rule.period or info.shape[-2]):
        yield Rows(info.name, first + begin, first + end)


def order_of_pairs(name: str, rows: int, heads: int) -> tuple[int, ...]:
    """Halves to neighbours: of a head's rows 0 1 2 | 3 4 5 the order is 0 3 1 4 2 5.

    Args:
        name: the source's.
        heads: how many share the rows; 0 where they stay as they are.
    """
    if not heads:
        return ()
    size, rest = divmod(rows, heads)
    if rest or size % 2:
        raise PlanError(
            f"{name}: {rows} rows are no {heads} heads of even size",
            hint="rotary embeddings turn elements in pairs",
        )
    half = size // 2
    return tuple(row for pair in range(half) for row in (pair, pair + half))


def _left_out(
    tensors: Mapping[str, TensorInfo], mapped: Sequence[TensorMap], numbers: Set[str]
) -> tuple[str, ...]:
    """The tensors that were not used.

    Args:
        numbers: the names of those that become keys.
    """
    reached: dict[str, int] = {}
    for part in (part for tensor in mapped for part in tensor.parts):
        reached[part.source] = max(part.stop, reached.get(part.source, 0))
    for name, row in reached.items():
        if row != tensors[name].rows:
            raise PlanError(f"{name} has {tensors[name].rows} rows, of which {row} are used")
    return tuple(name for name in tensors if name not in reached and name not in numbers)


def unknown_to(family: Family, settings: Config, left_out: Sequence[str]) -> tuple[str, ...]:
    """Those that are not known to be dispensable."""
    known = (*family.ignored, *family.dropped(settings), re.escape(OUTPUT))
    patterns = [re.compile(pattern) for pattern in known]
    return tuple(
        name
        for name in left_out
        if not any(
            pattern.fullmatch(known)
            for pattern in patterns
            for known in (name, WRAPPER.sub("", name))
        )
    )


def predicts(config: Config) -> bool:
    """Whether the model's class has an output projection."""
    classes = config.get("architectures") or [""]
    return PREDICTS.search(str(classes[0])) is not None


def _check_output(settings: Config, mapped: Sequence[TensorMap]) -> None:
    """A causal model whose configuration says that its output is not tied must have one."""
    if settings.get("tie_word_embeddings") is not False or not predicts(settings):
        return
    if all(tensor.name != OUTPUT_WEIGHT for tensor in mapped):
        raise _missing(OUTPUT)


def _missing(name: str) -> PlanError:
    return PlanError(
        f"the checkpoint has no tensor {name}",
        hint="a shard may be missing, or config.json may belong to another model",
    )


def misshapen(info: TensorInfo, shape: tuple[int, ...]) -> PlanError:
    return PlanError(
        f"{info.name} has shape {list(info.shape)}, but config.json asks for {list(shape)}",
        hint="config.json may belong to another model",
    )
