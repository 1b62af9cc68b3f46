"""Scheme names and their options."""

from typing import Any

import pytest

from qconvert.errors import UsageError
from qconvert.plan.safetensors.schemes import SCHEMES, embedding_scheme, make_scheme


def test_every_scheme_has_a_form() -> None:
    for name in SCHEMES:
        assert make_scheme(name.upper()).name == name


def test_w8a8_rounds_inputs_by_token_or_by_a_stored_range() -> None:
    dynamic, static = make_scheme("w8a8"), make_scheme("w8a8", activations="static")
    assert (dynamic.weights.layout, dynamic.weights.strategy) == ("int-quantized", "channel")
    assert dynamic.inputs is not None
    assert static.inputs is not None
    assert (dynamic.inputs.strategy, dynamic.inputs.dynamic) == ("token", True)
    assert (static.inputs.strategy, static.inputs.dynamic) == ("tensor", False)
    assert (dynamic.is_static, static.is_static) == (False, True)


def test_asymmetric_is_of_inputs_in_w8a8_and_of_weights_elsewhere() -> None:
    scheme = make_scheme("w8a8", asymmetric=True)
    assert scheme.weights.symmetric
    assert scheme.inputs is not None
    assert not scheme.inputs.symmetric
    assert not make_scheme("w4a16", asymmetric=True).weights.symmetric


def test_packed_integers_come_in_groups() -> None:
    assert make_scheme("w4a16").weights.group_size == 128
    assert make_scheme("w3a16", group_size=32).weights.group_size == 32
    assert make_scheme("w8a16").weights.strategy == "channel"
    assert make_scheme("w4a16", group_size="channel").weights.strategy == "channel"


@pytest.mark.parametrize("strategy", ["tensor", "channel", "block"])
def test_fp8_strategies(strategy: Any) -> None:
    scheme = make_scheme("fp8", strategy=strategy)
    assert scheme.weights.strategy == strategy
    assert scheme.weights.block == ((128, 128) if strategy == "block" else None)


def test_float4_has_its_own_groups() -> None:
    assert make_scheme("nvfp4a16").weights.group_size == 16
    assert make_scheme("mxfp4a16").weights.group_size == 32
    assert make_scheme("mxfp4a16").inputs is None


def test_embeddings_have_no_inputs_to_round() -> None:
    assert embedding_scheme().inputs is None
    assert embedding_scheme().weights.layout == "int-quantized"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("w4a16", {"activations": "static"}, "activations"),
        ("w4a16", {"strategy": "block"}, "strategy"),
        ("w8a8", {"group_size": 128}, "group-size"),
        ("w8a8", {"strategy": "tensor"}, "strategy"),
        ("fp8", {"asymmetric": True}, "asymmetric"),
        ("fp8", {"group_size": 64}, "group-size"),
        ("fp8", {"strategy": "group"}, "strategy"),
        ("fp8", {"strategy": "block", "activations": "static"}, "dynamic"),
        ("nvfp4a16", {"asymmetric": True}, "asymmetric"),
        ("mxfp4a16", {"group_size": 16}, "group-size"),
        ("w4a16", {"group_size": 48}, "groups of 48"),
        ("w4a16", {"group_size": 0}, "groups of 0"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_scheme(name, **options)


def test_unknown_names_have_a_hint() -> None:
    with pytest.raises(UsageError) as caught:
        make_scheme("w4a15")
    assert "w4a16" in caught.value.hint
