"""EmbeddingGemma: a Gemma 3 that reads in both directions, and has no output projection. A window
covers as many tokens on both sides together as the settings say.

sentence-transformers puts two further layers behind the mean of all tokens (`2_Dense`, `3_Dense`),
which GGUF files have too.
"""

from dataclasses import replace
from typing import Any

from qconvert.checkpoint.metadata import Metadata, flag
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_keys, decoder_limits
from qconvert.model.families.decoder.settings import decoder_settings
from qconvert.model.families.gemma import gemma3
from qconvert.model.families.parts.common import expect, prefixed
from qconvert.model.families.parts.rope import PLAIN
from qconvert.model.types import Config

DECODER = replace(
    gemma3.DECODER,
    name="gemma-embedding",
    classes=("Gemma3TextModel",),
    rope=replace(gemma3.DECODER.rope, kinds=PLAIN),
    scalars=(),
    windows=replace(gemma3.WINDOWS, always=True),
    pooled=True,
)


def metadata(config: Config) -> Metadata:
    keys = decoder_keys(DECODER, {**config, **gemma3.heeded_rope(config)})
    return {**keys, **prefixed(DECODER.name, {"attention.causal": flag(False)})}


def limits(config: Config) -> None:
    settings = {**config, **gemma3.heeded_rope(config)}
    decoder_limits(DECODER, settings)
    expect(settings, "hidden_act", gemma3.ACTIVATIONS)
    both_ways = {"use_bidirectional_attention": bool(settings.get("use_bidirectional_attention"))}
    expect(
        both_ways,
        "use_bidirectional_attention",
        (True,),
        "to llama.cpp a Gemma3TextModel reads in both directions; Gemma3ForCausalLM does not",
    )
    gemma3.check_query_scale(settings, by_width=False)


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    config = decoder_settings(DECODER, checkpoint)
    del config["hidden_act"]
    return {
        **config,
        "query_pre_attn_scalar": config["head_dim"],
        "use_bidirectional_attention": True,
        "tie_word_embeddings": True,
    }


EMBEDDING_GEMMA = replace(
    family_of(DECODER),
    metadata=metadata,
    limits=limits,
    config=config_json,
    encoder=True,
    dense=True,
)
