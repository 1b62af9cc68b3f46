"""Pictures of calibrations: complete, legible, and the same bytes every time."""

import os
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from observed_inputs import observed

from qconvert.calibration.overview import overview
from qconvert.calibration.plot import draw
from qconvert.calibration.types import Calibration
from qconvert.text.types import Sample

SVG = "{http://www.w3.org/2000/svg}"


def make(layers: int, experts: int = 0, model: str = "org/model", silent: bool = False):
    """A model with a channel that stands out everywhere, and one massive token."""
    random = np.random.default_rng(0)
    inputs = {}

    def add(layer: int, parts: tuple[str, ...], *arrays: np.ndarray) -> None:
        weights = tuple(f"blk.{layer}.{part}.weight" for part in parts)
        inputs[weights[0]] = replace(observed(*arrays), weights=weights)

    def values(tokens: int = 64, columns: int = 48) -> np.ndarray:
        x = random.standard_normal((tokens, columns)).astype(np.float32)
        return np.zeros_like(x) if silent else x

    for layer in range(layers):
        stream, down = values(), values(columns=96)
        stream[:, 7] *= 40
        down[0, 3] *= 3000
        add(layer, ("attn_q", "attn_k", "attn_v"), stream)
        add(layer, ("attn_output",), values())
        if experts:
            seen = [values(int(tokens)) for tokens in random.integers(0, 9, experts)]
            add(layer, ("ffn_gate_exps", "ffn_up_exps"), *seen)
            add(layer, ("ffn_down_exps",), *seen)
        else:
            add(layer, ("ffn_gate", "ffn_up"), stream)
            add(layer, ("ffn_down",), down)
    sample = Sample(np.zeros((2, 32), np.int32), "notes.txt", 0)
    return overview(Calibration(Path("c.safetensors"), sample, inputs, model, "f" * 64))


@lru_cache
def drawn(form: str, layers: int, experts: int = 0) -> bytes:
    return draw(make(layers, experts), form)


def texts(picture: bytes) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def size(picture: bytes) -> tuple[int, int]:
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", picture[16:24])


def test_an_svg_has_its_words_as_text():
    words = texts(drawn("svg", 2))
    assert "org/model: 64 tokens, notes.txt" in words
    for kind, columns in (("attention input", 48), ("ffn down input", 96)):
        assert f"{kind}, {columns} channels" in words
    assert "channel 7" in words
    assert "median channel" in words


def test_a_picture_is_the_same_bytes_every_time_and_in_every_process():
    for form in ("png", "svg"):
        assert draw(make(2), form) == drawn(form, 2)
    code = (
        f"import sys; sys.path[:0] = {[str(p) for p in sys.path]!r}\n"
        "from importlib.util import module_from_spec, spec_from_file_location as at\n"
        f"spec = at('plots', {__file__!r}); module = module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "sys.stdout.buffer.write(module.draw(module.make(2), 'svg'))"
    )
    settings = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=settings
    )
    assert other.stdout == drawn("svg", 2)


def test_a_picture_says_nothing_of_when_or_by_what_it_was_drawn():
    assert b"<dc:date>" not in drawn("svg", 2)
    assert b"Software" not in drawn("png", 2)


def test_the_users_own_settings_of_matplotlib_do_not_matter():
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert draw(make(2), "svg") == drawn("svg", 2)
        assert matplotlib.rcParams["font.size"] == 30


def test_experts_get_a_panel_of_their_own():
    assert any(text.startswith("tokens by expert") for text in texts(drawn("svg", 2, 4)))
    assert size(drawn("png", 2, 4))[1] > size(drawn("png", 2))[1]


@pytest.mark.parametrize("layers", [1, 80])
def test_few_and_many_layers_fit_the_same_picture(layers):
    width, height = size(drawn("png", layers))
    assert width == 1440
    assert 900 <= height <= 1000


def test_names_from_strangers_are_plain_text():
    words = texts(draw(make(1, model="a_$x^2$<b>&\x1b[31m"), "svg"))
    assert "a_$x^2$<b>& [31m: 64 tokens, notes.txt" in words


def test_layers_without_a_signal_can_be_drawn():
    assert size(draw(make(2, silent=True), "png"))[0] == 1440
    assert size(draw(make(1, experts=3, silent=True), "png"))[0] == 1440
