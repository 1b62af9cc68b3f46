"""Attention in strips against torch's own."""

import pytest
import torch

from qconvert.forward.attention import STRIP, attend, attend_in_strips


def inputs(tokens: int, heads: int, groups: int, size: int = 24) -> tuple:
    draw = torch.Generator().manual_seed(tokens)
    shapes = [(3, heads, tokens, size), (3, groups, tokens, size), (3, groups, tokens, size + 8)]
    return tuple(2 * torch.randn(shape, generator=draw) for shape in shapes)


@pytest.mark.parametrize(("heads", "groups"), [(6, 6), (6, 2), (5, 1)])
@pytest.mark.parametrize("tokens", [1, 7, STRIP, STRIP + 1, 3 * STRIP - 5])
def test_strips_give_what_torch_gives(tokens: int, heads: int, groups: int):
    query, key, value = inputs(tokens, heads, groups)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    found = attend_in_strips(query, key, value, 0.3)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_bfloat16_is_as_exact_as_it_can_be():
    query, key, value = (x.bfloat16() for x in inputs(300, 6, 2))
    wide = attend_in_strips(query.float(), key.float(), value.float(), 0.25)
    found = attend_in_strips(query, key, value, 0.25)
    assert found.dtype == torch.bfloat16
    assert (found.float() - wide).norm() <= 0.01 * wide.norm()


@pytest.mark.parametrize("case", ["mask", "not causal", "no scaling"])
def test_what_is_not_plain_causal_attention_is_torchs(case: str):
    query, key, value = inputs(40, 4, 4)
    mask = None
    if case == "mask":
        mask = torch.ones(40, 40, dtype=torch.bool).tril() & torch.ones(40, 40).bool().triu(-9)
    causal = case != "not causal"
    module = torch.nn.Module()
    module.is_causal = causal
    scaling = None if case == "no scaling" else 0.3
    found, _ = attend(module, query, key, value, mask, scaling=scaling, dropout=0.0)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, mask, is_causal=causal and mask is None, scale=scaling
    ).transpose(1, 2)
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()
