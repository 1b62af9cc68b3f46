"""Models that are made once."""

from pathlib import Path
from typing import Any

import pytest
from captures import run_capture
from common import save_model
from sampled_models import SAMPLE, quantized

from qconvert.plan.recipe import Recipe

BLOCKS = {"gpt2": "n_layer"}


def models_in(folder: Path, blocks: int) -> Any:
    """family -> its model, its folder and a calibration, made once; "llama tied" has one table of
    tokens for both ends."""
    found: dict[str, tuple[Any, Path, Path]] = {}

    def make(family: str) -> tuple[Any, Path, Path]:
        if family not in found:
            own = {BLOCKS.get(family, "num_hidden_layers"): blocks}
            name, tied = family.removesuffix(" tied"), family.endswith(" tied")
            model = save_model(name, folder / family, tied=tied, wide=True, **own)
            run_capture(folder / family, folder / f"{family}.safetensors", sample=SAMPLE)
            found[family] = (model, folder / family, folder / f"{family}.safetensors")
        return found[family]

    return make


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Models that are measured."""
    return models_in(tmp_path_factory.mktemp("models"), 8)


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Models whose bytes are compared, for which fewer blocks do."""
    return models_in(tmp_path_factory.mktemp("short"), 4)


@pytest.fixture(scope="session")
def usual(short: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A family's short model in Q4_K_M, made once by one thread, to be compared with."""
    found: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in found:
            path = tmp_path_factory.mktemp("usual") / f"{family}.gguf"
            recipe = Recipe("q4_k_m", output=path)
            found[family] = quantized(short, family, recipe, threads=1)
        return found[family]

    return make
