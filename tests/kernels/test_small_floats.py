"""float8 e4m3fn, against torch."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from qconvert.kernels.small_floats import to_bits


def check(x: np.ndarray) -> None:
    ours = np.empty(x.size, np.uint8)
    to_bits(x, ours)
    theirs = torch.from_numpy(x).clamp(-448, 448).to(torch.float8_e4m3fn)
    np.testing.assert_array_equal(ours, theirs.view(torch.uint8).numpy())


def test_all_values_of_bfloat16():
    x = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    check(x[~np.isnan(x)])


def test_around_every_value_and_every_midpoint():
    values = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    middles = (values[1:] + values[:-1]) / 2
    bits = np.concatenate([values, middles, [448.0, 464.0, 480.0, 1e30]]).astype(np.float32)
    near = bits.view(np.uint32).astype(np.int64)[:, None] + np.arange(-3, 4)
    x = np.clip(near, 0, None).astype(np.uint32).view(np.float32).reshape(-1)
    check(np.concatenate([x, -x]))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_any_float(values):
    check(np.array(values, np.float32))
