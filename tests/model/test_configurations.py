"""Configurations come from strangers: what GGUF cannot say is refused, and nothing crashes."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import FAMILIES, LLAMA3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from large_models import LARGE
from plain_models import SMALL

from qconvert.errors import CheckpointError, QconvertError, UnsupportedError
from qconvert.model.families import find_family
from qconvert.model.families.encoders.bert import BERT
from qconvert.model.families.parts.common import text_config
from qconvert.model.families.parts.rope import llama3_factors, rope_parameters
from qconvert.model.mapping import map_tensors
from qconvert.model.pooling import pooling_metadata

Make = Callable[..., Any]

REFUSED = [
    ("llama", {"hidden_act": "relu"}),
    ("llama", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0}}),
    ("llama", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    ("qwen3", {"rope_parameters": LLAMA3}),
    ("qwen2", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16}}),
    ("qwen2", {"rope_parameters": {"rope_type": "unheard of"}}),
    ("qwen2", {"head_dim": 24}),
    ("phi3", {"head_dim": 24}),
    ("olmo2", {"head_dim": 26}),
    ("qwen3_moe", {"norm_topk_prob": False}),
    ("qwen3_moe", {"mlp_only_layers": [1]}),
    ("qwen3_moe", {"decoder_sparse_step": 2}),
    ("gemma3", {"query_pre_attn_scalar": 256}),
    ("gemma3", {"attn_logit_softcapping": 50.0}),
    ("gemma3", {"use_bidirectional_attention": True}),
    ("gemma3", {"layer_types": ["sliding_attention"] * 3 + ["chunked_attention"]}),
    ("smollm3", {"no_rope_layers": [1, 1, 1, 1, 1]}),
    ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 3}),
    ("smollm3", {"use_sliding_window": True}),
    ("smollm3", {"attention_bias": True}),
    ("smollm3", {"mlp_bias": True}),
    ("qwen3", {"attention_bias": True}),
    ("gpt2", {"activation_function": "relu"}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("bert", {"position_embedding_type": "relative_key"}),
    ("bert", {"is_decoder": True}),
]


@pytest.mark.parametrize(("family", "change"), REFUSED)
def test_settings_that_llama_cpp_would_ignore_are_refused(
    family: str, change: dict[str, Any], listing: Make
) -> None:
    config = listing(family).config | change
    known = find_family(config)
    settings_ = text_config(known, config)
    with pytest.raises(UnsupportedError):
        known.limits(settings_) or known.metadata(settings_)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": None},
        {"hidden_size": "288"},
        {"hidden_size": -288},
        {"hidden_size": True},
        {"num_attention_heads": 0},
        {"num_hidden_layers": 10**12},
        {"rms_norm_eps": float("nan")},
        {"rms_norm_eps": 10**400},
        {"rope_parameters": ["llama3"]},
        {"rope_parameters": {"rope_theta": "1e4"}},
        {"rope_parameters": {"rope_type": "linear", "factor": 0}},
        {"text_config": 5},
    ],
)
def test_broken_numbers_are_refused(change: dict[str, Any], listing: Make) -> None:
    checkpoint = listing("llama")
    config = checkpoint.config | change
    with pytest.raises(CheckpointError, match=r"config\.json"):
        map_tensors(find_family(config), config, checkpoint.tensors)


strange = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "yarn", "llama3", "linear", "longrope", "\x00", "silu"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["rope_type", "rope_theta", "factor", "full_attention", "type", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("family", [*FAMILIES, *SMALL, *LARGE])
@given(data=st.data())
def test_a_spoiled_configuration_is_never_a_crash(
    family: str, listing: Make, data: st.DataObject
) -> None:
    checkpoint = listing(family)
    names = sorted(set(checkpoint.config) - {"architectures"})
    spoiled = data.draw(st.dictionaries(st.sampled_from(names), strange, min_size=1, max_size=3))
    config = checkpoint.config | spoiled
    with suppress(QconvertError):
        maps, _ = map_tensors(find_family(config), config, checkpoint.tensors)
        assert maps


def test_the_factors_of_llama_3_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        hidden_size=240, num_attention_heads=6, num_key_value_heads=2, rope_parameters=LLAMA3
    )
    turned, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = LLAMA3["rope_theta"] ** -(np.arange(0, 40, 2) / 40)
    factors = llama3_factors(config.to_dict())["rope_freqs.weight"]
    assert factors.min() == 1.0
    assert factors.max() == 4.0
    np.testing.assert_allclose(plain / factors, turned.numpy(), rtol=1e-5)


def test_rotary_settings_are_found_in_either_style() -> None:
    new = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 7.0}}
    old = {"rope_theta": 7.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    layered = {"rope_parameters": {"full_attention": new["rope_parameters"]}}
    for config in (new, old, layered):
        rope = rope_parameters(config)
        assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("linear", 2.0, 7.0)


@pytest.mark.parametrize(
    ("settings_", "expected"),
    [
        ('{"pooling_mode_mean_tokens": true}', 1),
        ('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}', 2),
        ('{"pooling_mode": "lasttoken"}', 3),
    ],
)
def test_pooling_is_read_from_the_modules(settings_: str, expected: int, tmp_path: Path) -> None:
    write_modules(tmp_path, "1_Pooling", settings_)
    assert pooling_metadata(tmp_path, BERT)["bert.pooling_type"].value == expected


def test_a_model_without_modules_has_no_pooling(tmp_path: Path) -> None:
    assert pooling_metadata(tmp_path, BERT) == {}


@pytest.mark.parametrize(
    ("folder", "settings_"),
    [
        ("../elsewhere", "{}"),
        ("1_Pooling", "[]"),
        ("1_Pooling", "{"),
        ("1_Pooling", '{"pooling_mode": ["mean"]}'),
        ("1_Pooling", '{"pooling_mode_max_tokens": true}'),
        ("missing", None),
    ],
)
def test_pooling_that_cannot_be_read_is_refused(
    folder: str, settings_: str | None, tmp_path: Path
) -> None:
    write_modules(tmp_path, folder, settings_)
    with pytest.raises((CheckpointError, UnsupportedError)):
        pooling_metadata(tmp_path, BERT)


def write_modules(path: Path, folder: str, settings_: str | None) -> None:
    (path / "modules.json").write_text(
        f'[{{"type": "sentence_transformers.models.Pooling", "path": "{folder}"}}]'
    )
    if settings_ is not None and ".." not in folder:
        (path / folder).mkdir()
        (path / folder / "config.json").write_text(settings_)
