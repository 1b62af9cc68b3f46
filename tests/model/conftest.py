"""Configurations and tensor lists of tiny checkpoints, made once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from common import tiny_model
from large_models import LARGE, large_model
from plain_models import ALWAYS_TIED, PLAIN

from qconvert.checkpoint.types import TensorInfo


class Listing(NamedTuple):
    """A checkpoint without weights."""

    config: dict[str, Any]
    tensors: dict[str, TensorInfo]

    def without(self, *names: str) -> dict[str, TensorInfo]:
        return {name: info for name, info in self.tensors.items() if name not in names}

    def adding(self, *infos: TensorInfo) -> dict[str, TensorInfo]:
        return self.tensors | {info.name: info for info in infos}


def tensor(name: str, *shape: int) -> TensorInfo:
    return TensorInfo(name, shape, "F32", Path("model.safetensors"), 0, 0)


@cache
def _listing(family: str, tied: bool) -> Listing:
    if family in LARGE:
        model = large_model(family)
    else:
        model = tiny_model(PLAIN.get(family, family), tied=tied or family in ALWAYS_TIED)
    tied = tied or family in ALWAYS_TIED
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    tensors = {name: tensor(name, *shape) for name, shape in shapes.items()}
    return Listing(config, {k: v for k, v in tensors.items() if not (tied and "lm_head" in k)})


@pytest.fixture(scope="session")
def listing() -> Callable[..., Listing]:
    """family -> its tiny checkpoint, as transformers holds it in memory."""

    def make(family: str, tied: bool = False) -> Listing:
        found = _listing(family, tied)
        return Listing(dict(found.config), dict(found.tensors))

    return make
