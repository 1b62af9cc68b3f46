"""The table of tensors of a plain decoder."""

from collections.abc import Iterator
from dataclasses import replace

from qconvert.model.families.common import block_count, head_count, kv_head_count, whole
from qconvert.model.families.decoder.types import Attention, Decoder, Experts, Names, Norms, Stated
from qconvert.model.families.parts import (
    EMBEDDING,
    LAYER,
    OUTPUT,
    QK_NORMS,
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
        *_qk_norms(decoder),
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
    if part.pairs == "neighbours":
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


def _qk_norms(decoder: Decoder) -> Iterator[Rule]:
    if decoder.attention.qk_norms:
        for rule in QK_NORMS:
            yield replace(rule, add=decoder.norms.shift)


def _feed_forward(decoder: Decoder, config: Config) -> Iterator[Rule]:
    """Of dense blocks and of blocks with experts, where there are any."""
    experts, feed_forward = decoder.experts, decoder.feed_forward
    dense = experts.dense(config) if experts else None
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
        others = tuple(block for block in range(block_count(config)) if block not in dense)
    for rule in _experts(experts, config):
        yield replace(rule, hf=LAYER + rule.hf, blocks=others)


def _experts(experts: Experts, config: Config) -> Iterator[Rule]:
    """Names of Hugging Face's within a block. Those of single experts come first; the fused ones
    stand in for them."""
    gate, up, down = (f"{BLOCK}ffn_{part}_exps.weight" for part in ("gate", "up", "down"))
    size = whole(config, experts.size)
    for name in experts.routers:
        yield Rule(BLOCK + "ffn_gate_inp.weight", name)
    for name in experts.correction:
        yield Rule(BLOCK + "exp_probs_b.bias", name)
    for target, name in zip((gate, up, down), experts.names, strict=bool(experts.names)):
        yield Rule(target, name)
    both, last = (experts.part + name for name in experts.fused)
    yield Rule(gate, both, rows=(0, size))
    yield Rule(up, both, rows=(size, 2 * size))
    yield Rule(down, last)
    yield from _shared(experts, config)


def _shared(experts: Experts, config: Config) -> Iterator[Rule]:
    shared = experts.shared
    if shared is None:
        return
    gate, up, down = (f"{BLOCK}ffn_{part}_shexp.weight" for part in ("gate", "up", "down"))
    if shared.gate:
        yield Rule(BLOCK + "ffn_gate_inp_shexp.weight", shared.gate + ".weight")
    if shared.fused is None:
        for target, name in ((gate, "gate_proj"), (up, "up_proj"), (down, "down_proj")):
            yield Rule(target, f"{shared.part}{name}.weight")
        return
    size = whole(config, shared.size)
    both, last = (f"{shared.part}{name}.weight" for name in shared.fused)
    yield Rule(gate, both, rows=(0, size))
    yield Rule(up, both, rows=(size, 2 * size))
    yield Rule(down, last)
