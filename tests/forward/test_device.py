"""Which device and type "auto" stands for, and which names there are."""

import pytest
import torch

from qconvert.errors import UsageError
from qconvert.forward.device import choose_device, choose_dtype


def test_auto_is_a_device_that_torch_can_use():
    found = choose_device("auto")
    assert torch.ones(2, device=found).sum() == 2


def test_the_cpu_can_be_asked_for():
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("available", "expected"),
    [((True, True), "cuda"), ((True, False), "cuda"), ((False, True), "mps")],
)
def test_gpus_go_before_the_cpu(available, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available[0])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: available[1])
    assert choose_device("auto") == expected


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no cuda"):
        choose_device("cuda")
    with pytest.raises(UsageError, match="'tpu' is not a device"):
        choose_device("tpu")


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_chosen_where_the_cpu_multiplies_it(has, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert choose_dtype("auto", "cpu") == ("bfloat16" if has else "float32")


def test_types_go_by_short_names():
    assert [choose_dtype(name, "cpu") for name in ("bf16", "f32", "f16")] == [
        "bfloat16",
        "float32",
        "float16",
    ]
    with pytest.raises(UsageError, match="'q4' is not a type"):
        choose_dtype("q4", "cpu")
