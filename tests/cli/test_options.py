"""What several commands understand alike."""

from types import SimpleNamespace

import pytest
import typer

from qconvert.cli.app import app
from qconvert.cli.options import parse_share
from qconvert.errors import UsageError
from qconvert.forward.device import DEVICES

NOWHERE = SimpleNamespace(is_available=lambda: False)


@pytest.mark.parametrize(
    ("text", "share"), [("2%", 0.02), ("0.02", 0.02), ("0", 0), ("0.5%", 0.005), ("150%", 1.5)]
)
def test_shares_are_percent_or_parts_of_one(text, share):
    assert parse_share("--within", text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["2", "-1%", "x", "", "%", "nan", "nan%", "inf%", "1e400"])
def test_limits_that_may_mean_two_things_or_none_are_refused(text):
    with pytest.raises(UsageError, match="is no share"):
        parse_share("--within", text)


def commands_with(option: str) -> list[str]:
    commands = typer.main.get_command(app).commands
    return [
        name
        for name, command in commands.items()
        if any(option in parameter.opts for parameter in command.params)
    ]


def test_devices_are_named_where_a_model_is_run():
    runs = ["calibrate", "quantize", "prune", "tune", "distill", "evaluate", "report"]
    assert commands_with("--device") == runs


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "CPU", "", "cuda", "mps"])
@pytest.mark.parametrize("command", commands_with("--device"))
def test_a_device_that_is_not_there_is_refused(qconvert, command, device):
    """Before anything is read, and whether it would be used or not."""
    import torch

    if {"cuda": torch.cuda, "mps": torch.backends.mps}.get(device, NOWHERE).is_available():
        pytest.skip(f"this machine has {device}")
    data = ["--data", "text.txt"] if command == "evaluate" else []
    done = qconvert(command, "/no/such/model", *data, "--device", device)
    assert (done.returncode, done.stdout) == (2, "")
    word = f"torch finds no {device} device here" if device in DEVICES else "is not a device"
    assert word in done.stderr
    assert "hint: choose" in done.stderr
