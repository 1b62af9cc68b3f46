import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8}

Save = Callable[[Mapping[str, Any], Path], None]


@pytest.fixture
def make_directory(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint directory: files by name, `config.json` unless it is given."""

    def make(files: Mapping[str, bytes | str | dict], name: str = "model") -> Path:
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        for file, content in {"config.json": CONFIG, **files}.items():
            data = json.dumps(content) if isinstance(content, dict) else content
            (path / file).write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return make
