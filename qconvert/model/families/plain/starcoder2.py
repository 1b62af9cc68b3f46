"""StarCoder2: layer norms and biases everywhere, and a feed-forward without a gate."""

from dataclasses import replace

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import (
    PRE,
    Attention,
    Decoder,
    FeedForward,
    Only,
)

DECODER = Decoder(
    name="starcoder2",
    model_type="starcoder2",
    classes=("Starcoder2ForCausalLM",),
    defaults={
        "vocab_size": 49_152,
        "hidden_size": 3072,
        "intermediate_size": 12_288,
        "num_hidden_layers": 30,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "norm_epsilon": 1e-5,
        "rope_theta": 10000.0,
        "use_bias": True,
        "tie_word_embeddings": True,
    },
    norms=replace(PRE, kind="layer", bias=True, epsilon="norm_epsilon"),
    attention=Attention(bias=True, output_bias=True, square=True),
    feed_forward=FeedForward(
        (("ffn_up", "mlp.c_fc"), ("ffn_down", "mlp.c_proj")), gated=False, bias=True
    ),
    only=(Only("hidden_act", ("gelu_pytorch_tanh", "gelu_new")), Only("use_bias", (True,))),
    written={"sliding_window": None},
)

STARCODER2 = family_of(DECODER)
