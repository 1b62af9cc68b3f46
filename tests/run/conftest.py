"""Models that are made once."""

from pathlib import Path
from typing import Any

import pytest
from captures import run_capture
from common import save_model
from sampled_models import SAMPLE


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A family's model, its folder and a calibration, made once."""
    folder = tmp_path_factory.mktemp("models")
    found: dict[str, tuple[Any, Path, Path]] = {}

    def make(family: str) -> tuple[Any, Path, Path]:
        if family not in found:
            model = save_model(family, folder / family, wide=True)
            run_capture(folder / family, folder / f"{family}.safetensors", sample=SAMPLE)
            found[family] = (model, folder / family, folder / f"{family}.safetensors")
        return found[family]

    return make
