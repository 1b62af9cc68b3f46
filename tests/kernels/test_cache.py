"""Kernels are kept where there is a place for them, and there always is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qconvert import kernels

RUN = """
import os
from pathlib import Path
import qconvert
package, access = Path(qconvert.__file__).parent / "kernels", os.access
os.access = lambda path, mode: path != package and access(path, mode)
import numpy as np
from qconvert.formats import FORMATS
from qconvert.formats.quantize import quantize
print(quantize(FORMATS["Q8_0"], np.ones((1, 32), np.float32))[0].shape)
"""


@pytest.fixture
def read_only_package(monkeypatch):
    package = Path(kernels.__file__).parent
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != package and access(path, mode))


def test_the_package_comes_first():
    assert kernels._cache_folder() is None


def test_then_the_users_cache(read_only_package, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernels._cache_folder() == str(tmp_path / "qconvert" / "kernels")


def test_then_a_temporary_folder(read_only_package, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = Path(kernels._cache_folder())
    assert folder.is_dir()
    folder.rmdir()


def test_numba_uses_it(tmp_path):
    settings = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", RUN], env=settings, capture_output=True, text=True, check=False
    )
    assert done.stdout == "(1, 34)\n", done.stderr
    assert any(tmp_path.rglob("*.nbc"))
