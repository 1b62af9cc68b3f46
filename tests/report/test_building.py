import shlex
from pathlib import Path

import pytest

from qconvert.report.building import backend_for, command
from qconvert.report.request import Asked


@pytest.mark.parametrize(
    ("wanted", "type_", "found"),
    [
        ("auto", "q4_k_m", "auto"),
        ("torch", "q4_k_m", "torch"),
        ("torch", "w8a8", "torch"),
        ("llama.cpp", "q4_k_m", "llama.cpp"),
        ("llama.cpp", "w8a8", "auto"),
        ("transformers", "q4_k_m", "auto"),
        ("transformers", "w8a8", "transformers"),
    ],
)
def test_a_backend_that_cannot_run_a_file_is_not_asked_to(wanted, type_, found):
    assert backend_for(wanted, type_) == found


def test_a_command_is_quoted_for_a_shell():
    asked = Asked("a model; rm -r x", (), Path("rep"), calibration=Path("a'b.safetensors"))
    words = shlex.split(command(asked, "q4_k_m"))
    assert words[:3] == ["qconvert", "quantize", "a model; rm -r x"]
    assert words[3:] == ["-t", "q4_k_m", "-c", "a'b.safetensors"]
