"""What the processes of the tests have in common."""

import gc
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

# Two of them run side by side, on two cores: each computes on one. A test that asks for more says
# so itself.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

gc.set_threshold(100_000, 50, 100)
"""torch and transformers are millions of objects that stay, and need not be looked through."""

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
"""An example may be the one that compiles a kernel."""


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """family -> its tiny model in a directory and in files, made once (`large_models`)."""
    from large_models import convert_large

    made: dict[str, Any] = {}

    def find(family: str) -> Any:
        if family not in made:
            made[family] = convert_large(family, tmp_path_factory.mktemp(family))
        return made[family]

    return find
