"""The table of tensors of a plain decoder."""

from collections.abc import Iterator
from dataclasses import replace

from qconvert.model.families.decoder.types import (
    Attention,
    Decoder,
    Experts,
    Names,
    Norms,
    Shared,
    Stated,
)
from qconvert.model.families.parts.common import (
    MOST_BLOCKS,
    head_count,
    kv_head_count,
    whole,
)
from qconvert.model.families.parts.layers import other_blocks
from qconvert.model.families.parts.lines import (
    EMBEDDING,
    LAYER,
    OUTPUT,
    attention,
    attention_biases,
)
from qconvert.model.types import Config, Rule

BLOCK = "blk.{i}."


def decoder_rules(decoder: Decoder, config: Config) -> tuple[Rule, ...]:
    """The table, in the order of a file."""
    norms = decoder.norms
    output_norm, output = OUTPUT
    tied = decoder.tied_output and config.get("tie_word_embeddings")
    return (
        *EMBEDDING,
        *_norms(norms, norms.before, config),
        *_attention(decoder.attention, config),
        *_qk_norms(decoder, config),
        *_norms(norms, norms.behind_attention, config),
        *_feed_forward(decoder, config),
        *_norms(norms, norms.behind_feed_forward, config),
        *_norm(norms, output_norm, config),
        output,
        *([Rule(output.gguf, EMBEDDING[0].hf)] if tied else []),
    )


def is_stated(flag: Stated, config: Config) -> bool:
    return flag if isinstance(flag, bool) else bool(config.get(flag))


def _norms(norms: Norms, names: Names, config: Config) -> Iterator[Rule]:
    for gguf, hf in names:
        yield from _norm(norms, Rule(f"{BLOCK}{gguf}.weight", f"{LAYER}{hf}.weight"), config)


def _norm(norms: Norms, rule: Rule, config: Config) -> Iterator[Rule]:
    yield replace(rule, add=norms.shift)
    if is_stated(norms.bias, config):
        yield _bias(rule)


def _bias(rule: Rule) -> Rule:
    gguf, hf = (name.removesuffix("weight") + "bias" for name in (rule.gguf, rule.hf))
    return replace(rule, gguf=gguf, hf=hf, add=0.0)


def _attention(part: Attention, config: Config) -> Iterator[Rule]:
    heads = kv_heads = 0
    if part.regrouped:
        heads, kv_heads = head_count(config), kv_head_count(config)
    rules = attention(heads, kv_heads)
    output = rules[-1]
    if part.fused:
        rules = (Rule(BLOCK + "attn_qkv.weight", LAYER + "self_attn.qkv_proj.weight"), output)
    yield from rules
    if is_stated(part.bias, config):
        yield from attention_biases(heads, kv_heads)
    if is_stated(part.output_bias, config):
        yield replace(_bias(output), optional=isinstance(part.output_bias, str))


def _qk_norms(decoder: Decoder, config: Config) -> Iterator[Rule]:
    if decoder.attention.qk_norms and is_stated(decoder.attention.qk_normed, config):
        for part, name in zip("qk", decoder.attention.qk_names, strict=True):
            gguf, hf = f"{BLOCK}attn_{part}_norm.weight", f"{LAYER}{name}.weight"
            yield Rule(gguf, hf, add=decoder.norms.shift)


def _feed_forward(decoder: Decoder, config: Config) -> Iterator[Rule]:
    """Of dense blocks and of blocks with experts, where there are any."""
    experts, feed_forward = decoder.experts, decoder.feed_forward
    dense = dense_blocks(experts, config) if experts else None
    if feed_forward is not None and dense != ():
        weights = [
            Rule(f"{BLOCK}{gguf}.weight", f"{LAYER}{hf}.weight", blocks=dense)
            for gguf, hf in feed_forward.names
        ]
        yield from weights
        if is_stated(feed_forward.bias, config):
            yield from map(_bias, weights)
    if experts is None:
        return
    others = None
    if dense:
        others = other_blocks(config, dense)
    for rule in _experts(experts, config):
        yield replace(rule, hf=LAYER + rule.hf, blocks=others)


def dense_blocks(experts: Experts, config: Config) -> tuple[int, ...]:
    """The blocks without experts."""
    if not experts.leading:
        return experts.dense(config)
    stated = config.get(experts.leading)
    return tuple(range(whole(config, experts.leading, most=MOST_BLOCKS))) if stated else ()


def _experts(experts: Experts, config: Config) -> Iterator[Rule]:
    """With Hugging Face's names within a block. Those of single experts come first, by which a
    checkpoint has them; the others stand in for them."""
    for name in experts.routers:
        yield Rule(BLOCK + "ffn_gate_inp.weight", name)
    for name in experts.correction:
        yield Rule(BLOCK + "exp_probs_b.bias", name)
    size = whole(config, experts.size)
    yield from _gated("exps", experts.single, size)
    for names in experts.fused:
        for rule in _gated("exps", names, size):
            yield replace(rule, transpose=experts.inward, transpose_on_load=experts.inward)
    shared = shared_expert(experts, config)
    if shared is not None:
        if shared.gate:
            stored = (1, whole(config, "hidden_size"))
            yield Rule(BLOCK + "ffn_gate_inp_shexp.weight", shared.gate, stored=stored)
        yield from _gated("shexp", shared.names, whole(config, shared.size))


def shared_expert(experts: Experts, config: Config) -> Shared | None:
    """The expert for all tokens, if there is one: its size may be none."""
    return experts.shared if experts.shared and config.get(experts.shared.size) else None


def _gated(end: str, names: tuple[str, ...], size: int) -> Iterator[Rule]:
    """Gate, up and down, or gate and up in one matrix and down."""
    gate, up, down = (f"{BLOCK}ffn_{part}_{end}.weight" for part in ("gate", "up", "down"))
    if len(names) == 3:
        yield from map(Rule, (gate, up, down), names)
    elif names:
        yield Rule(gate, names[0], rows=(0, size))
        yield Rule(up, names[0], rows=(size, 2 * size))
        yield Rule(down, names[1])
