"""Models that are made once."""

from pathlib import Path
from typing import Any

import pytest
from captures import run_capture
from common import save_model
from sampled_models import SAMPLE, quantized

from qconvert.plan.recipe import Recipe


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A family's model, its folder and a calibration, made once; "llama tied" has one table of
    tokens for both ends."""
    folder = tmp_path_factory.mktemp("models")
    found: dict[str, tuple[Any, Path, Path]] = {}

    def make(family: str) -> tuple[Any, Path, Path]:
        if family not in found:
            tied = family.endswith(" tied")
            name = family.removesuffix(" tied")
            model = save_model(name, folder / family, tied=tied, wide=True)
            run_capture(folder / family, folder / f"{family}.safetensors", sample=SAMPLE)
            found[family] = (model, folder / family, folder / f"{family}.safetensors")
        return found[family]

    return make


@pytest.fixture(scope="session")
def usual(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A family's model in Q4_K_M, made once with its calibration, to be compared with."""
    found: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in found:
            path = tmp_path_factory.mktemp("usual") / f"{family}.gguf"
            found[family] = quantized(made, family, Recipe("q4_k_m", output=path))
        return found[family]

    return make
