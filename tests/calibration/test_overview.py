"""What a calibration's overview finds: planted channels, tokens and experts, and no others."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from observed_inputs import observed

from qconvert.calibration.overview import KINDS, OTHER, SHARES, overview, place
from qconvert.calibration.types import FEW_TOKENS, Calibration, InputStatistics
from qconvert.text.types import Sample


def calibration(inputs: Mapping[tuple[str, ...], list[np.ndarray]]) -> Calibration:
    """One by hand: weights without `.weight`, and the tokens that each expert saw."""
    found: dict[str, InputStatistics] = {}
    for parts, arrays in inputs.items():
        weights = tuple(f"{part}.weight" for part in parts)
        found[weights[0]] = replace(observed(*arrays), weights=weights)
    sample = Sample(np.arange(64, dtype=np.int32).reshape(4, 16), "a.txt", 0)
    return Calibration(Path("c.safetensors"), sample, found, "model", "f" * 64)


def numbers(tokens: int = 512, columns: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((tokens, columns)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blk.3.attn_q.weight", (3, "attention input")),
        ("blk.0.attn_qkv.weight", (0, "attention input")),
        ("blk.12.attn_output.weight", (12, "attention output")),
        ("blk.1.ffn_up.weight", (1, "ffn input")),
        ("blk.1.ffn_down.weight", (1, "ffn down input")),
        ("blk.1.ffn_gate_exps.weight", (1, "expert input")),
        ("blk.1.ffn_down_exps.weight", (1, "expert down input")),
        ("output.weight", (-1, "output input")),
        ("token_embd.weight", (-1, "output input")),
        ("blk.1.ssm_in.weight", (1, OTHER)),
        ("strange", (-1, OTHER)),
    ],
)
def test_names_tell_layers_and_kinds(name, expected):
    assert place(name) == expected


def test_inputs_come_by_layer_and_in_the_order_of_a_block():
    x = numbers(8)
    names = ["output", "blk.10.ffn_down", "blk.2.ffn_up", "blk.2.attn_q", "blk.10.attn_q"]
    seen = overview(calibration({(name,): [x] for name in names}))
    assert [one.name.removesuffix(".weight") for one in seen.inputs] == [
        "blk.2.attn_q",
        "blk.2.ffn_up",
        "blk.10.attn_q",
        "blk.10.ffn_down",
        "output",
    ]
    assert seen.layers == (2, 10)


def test_rms_is_that_of_the_tokens():
    x = numbers()
    (one,) = overview(calibration({("blk.0.attn_q",): [x]})).inputs
    expected = np.sqrt((x.astype(np.float64) ** 2).mean(axis=0))
    assert np.allclose(one.rms, expected, rtol=1e-6)
    assert one.spread[0] == pytest.approx(np.median(expected))
    assert one.spread[2] == pytest.approx(expected.max())


def test_channels_that_stand_out_are_found_and_no_others():
    x = numbers()
    x[:, 5] *= 12
    x[:, 9] *= 30
    x[:, 7] *= 5  # large, but no outlier
    (one,) = overview(calibration({("blk.0.attn_q",): [x]})).inputs
    assert [channel.channel for channel in one.channels] == [9, 5]
    assert one.channels[0].absmax == np.abs(x[:, 9]).max()
    assert one.channels[0].rms == pytest.approx(30, rel=0.1)
    assert one.channels[0].ratio == pytest.approx(900, rel=0.2)
    assert one.channels[0].matrix == -1


def test_channels_of_the_residual_stream_that_recur_are_counted_by_layers():
    inputs = {}
    for layer in range(4):
        x = numbers(seed=layer)
        x[:, 3] *= 20
        if layer < 2:
            x[:, 8] *= 20
        if layer == 0:
            x[:, 1] *= 20
        inputs[(f"blk.{layer}.attn_q",)] = [x]
        inputs[(f"blk.{layer}.ffn_down",)] = [x]  # its channels are this layer's own
    seen = overview(calibration(inputs))
    assert seen.recurring == {"attention input": {3: 4, 8: 2}}


def test_tokens_that_stand_out_are_counted_and_weighed():
    x = numbers(1024)
    x[::256, 2] = 900.0
    (one,) = overview(calibration({("blk.0.ffn_down",): [x]})).inputs
    energy = (x.astype(np.float64) ** 2).sum(axis=1)
    large = energy > 1e5
    assert one.tokens is not None
    assert one.tokens.number == large.sum() == 4
    assert one.tokens.peak == 900
    assert one.tokens.share == pytest.approx(energy[large].sum() / energy.sum())
    assert one.tokens.ratio == pytest.approx(energy.max() / np.median(energy), rel=0.2)


def test_even_tokens_have_none_that_stand_out():
    (one,) = overview(calibration({("blk.0.ffn_down",): [numbers(1024)]})).inputs
    assert one.tokens is None
    assert one.channels == ()


def test_quantiles_are_those_of_the_elements_to_a_bin():
    x = numbers(4096)
    (one,) = overview(calibration({("blk.0.ffn_down",): [x]})).inputs
    exact = np.quantile(np.abs(x), SHARES)
    assert np.all(one.quantiles >= exact * 0.999)
    assert np.all(one.quantiles <= exact * (1 + 2 / 16))
    assert one.quantiles[-1] <= np.abs(x).max()


def test_experts_are_told_apart_by_what_they_saw():
    arrays = [numbers(200), numbers(0), numbers(FEW_TOKENS - 1), numbers(FEW_TOKENS)]
    arrays[0][:, 6] *= 30
    inputs = {
        ("blk.0.ffn_gate_exps", "blk.0.ffn_up_exps"): arrays,
        ("blk.0.ffn_down_exps",): arrays,
    }
    shared, own = overview(calibration(inputs)).inputs
    assert shared.unseen == own.unseen == (1,)
    assert shared.rare == own.rare == (2,)
    assert shared.count == 200 + 2 * FEW_TOKENS - 1
    assert len(shared.rms) == 64
    assert len(own.rms) == 3 * 64
    assert [(one.matrix, one.channel) for one in shared.channels] == [(-1, 6)]
    assert [(one.matrix, one.channel) for one in own.channels] == [(0, 6)]


def test_an_input_that_saw_only_zeros_or_nothing_is_no_trouble():
    zeros = np.zeros((16, 64), np.float32)
    inputs = {("blk.0.attn_q",): [zeros], ("blk.0.ffn_down_exps",): [numbers(0), numbers(0)]}
    for one in overview(calibration(inputs)).inputs:
        assert one.channels == ()
        assert one.tokens is None
        assert one.quantiles == (0.0,) * len(SHARES)
        assert one.spread == (0.0, 0.0, 0.0)


def test_a_channel_among_silent_ones_stands_out():
    x = np.zeros((128, 640), np.float32)
    x[:, 4] = 1.0
    (one,) = overview(calibration({("blk.0.ffn_down",): [x]})).inputs
    assert [channel.channel for channel in one.channels] == [4]


def test_every_weight_of_the_table_of_kinds_has_one_kind():
    parts = [part for names in KINDS.values() for part in names]
    assert len(parts) == len(set(parts))
