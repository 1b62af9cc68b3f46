import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub, Repo, running
from safetensors.numpy import save

OPEN = """
import json, sys
from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.errors import QconvertError
for model in sys.argv[2:]:
    try:
        opened = open_checkpoint(model, progress=sys.argv[1] == "show")
    except QconvertError as error:
        kind = type(error).__name__
        print(json.dumps({"error": kind, "message": error.message, "hint": error.hint}))
    else:
        sums = {n: float(read_rows(t, 0, t.rows).sum()) for n, t in opened.tensors.items()}
        print(json.dumps({"source": opened.source, "sums": sums}))
"""
CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"]}).encode()


def weights(**values: float) -> bytes:
    return save({name: np.full((4, 8), value, np.float32) for name, value in values.items()})


def sharded() -> dict[str, bytes]:
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    index = {"weight_map": {"a": first, "b": second}}
    return {
        "config.json": CONFIG,
        # All differ, as equal files are fetched once.
        "tokenizer.json": b"{}",
        "tokenizer.model": b"1",
        "chat_template.jinja": b"2",
        "additional_chat_templates/tool.jinja": b"3",
        "1_Pooling/config.json": b"{ }",
        "model.safetensors.index.json": json.dumps(index).encode(),
        first: weights(a=1),
        second: weights(b=2),
        "pytorch_model.bin": b"never fetched",
        "pytorch_model.bin.index.json": b"never fetched",
        "original/consolidated.00.pth": b"never fetched",
        "onnx/model.onnx": b"never fetched",
        "README.md": b"# A model",
    }


def single(value: float) -> dict[str, bytes]:
    files = {"config.json": CONFIG, "model.safetensors": weights(a=value)}
    return {**files, "model.fp16.safetensors": b"never fetched", "tf_model.h5": b"never fetched"}


FOREIGN = {
    "adapter": {"adapter_config.json": b"{}", "adapter_model.safetensors": weights(a=1)},
    "merged": {"adapter_config.json": b"{}", **single(5)},
    "flax": {"config.json": CONFIG, "flax_model.msgpack": b"x"},
    "tensorflow": {"config.json": CONFIG, "tf_model.h5": b"x"},
    "mistral": {"params.json": b"{}", "consolidated.safetensors": weights(a=1)},
}
WORDS = {
    "adapter": "PEFT adapter",
    "merged": "PEFT adapter",
    "flax": "Flax",
    "tensorflow": "TensorFlow",
    "mistral": "Mistral's own format",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    repos = {
        "org/sharded": Repo({"main": sharded()}),
        "org/private": Repo({"main": single(3)}, token="hf_secret"),
        "org/gated": Repo({"main": single(3)}, gated=True),
        "org/versions": Repo({"main": single(1), "v1.0": single(2), "refs-pr-1": single(4)}),
        "org/ggufs": Repo({"main": {"a-Q4_K.gguf": b"GGUF", "b.gguf": b"GGUF", "README.md": b""}}),
        **{f"org/{name}": Repo({"main": files}) for name, files in FOREIGN.items()},
        "org/nothing": Repo({"main": {"README.md": b""}}),
        "org/lacking": Repo({"main": {**sharded(), "model-00002-of-00002.safetensors": b""}}),
    }
    del repos["org/lacking"].revisions["main"]["model-00002-of-00002.safetensors"]
    with running(repos) as server:
        yield server


def run_all(
    hub: Hub, home: Path, models: list[str], show: bool = False, **extra: str
) -> tuple[list[dict], str]:
    """What opening gives, and standard error.

    In a process of its own, since the library reads its environment on import.
    """
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    proxies = {k: "" for k in keep if k.lower().endswith("_proxy")}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OPEN, "show" if show else "quiet", *models],
        env={**keep, **proxies, **settings, **extra},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def run(hub: Hub, home: Path, model: str, **extra: str) -> dict:
    (got,), errors = run_all(hub, home, [model], **extra)
    assert errors == ""
    return got


def test_a_sharded_repository_is_fetched_once_and_only_what_is_needed(
    hub: Hub, tmp_path: Path
) -> None:
    got = run(hub, tmp_path, "org/sharded")
    commit = hub.repos["org/sharded"].commit("main")
    assert got["source"] == f"org/sharded@{commit}"
    assert got["sums"] == {"a": 32, "b": 64}
    files = sharded()
    wanted = sorted(name for name, data in files.items() if data != b"never fetched")
    assert hub.downloads() == wanted

    hub.requests.clear()
    again = run(hub, tmp_path, "org/sharded")
    assert again["sums"] == got["sums"]
    assert hub.requests != []
    assert hub.downloads() == []

    hub.requests.clear()
    offline = run(hub, tmp_path, "org/sharded", HF_HUB_OFFLINE="1")
    assert (offline["sums"], offline["source"]) == (got["sums"], got["source"])
    assert hub.requests == []

    hub.failing = 503
    assert run(hub, tmp_path, "org/sharded")["sums"] == got["sums"]


def test_branches_tags_and_commits_are_told_apart(hub: Hub, tmp_path: Path) -> None:
    repo = hub.repos["org/versions"]
    values = {"": 1, "@v1.0": 2, "@main": 1, f"@{repo.commit('refs-pr-1')}": 4}
    got, _ = run_all(hub, tmp_path, [f"org/versions{revision}" for revision in values])
    for revision, result in zip(values, got, strict=True):
        assert result["sums"] == {"a": 32 * values[revision]}, revision
        assert result["source"] == f"org/versions@{repo.commit(revision[1:] or 'main')}"
    assert set(hub.downloads()) == {"config.json", "model.safetensors"}


def test_a_private_repository_opens_with_the_token_alone(hub: Hub, tmp_path: Path) -> None:
    refused = run(hub, tmp_path, "org/private")
    assert refused["error"] == "HubError"
    assert "HF_TOKEN" in refused["hint"]
    assert hub.downloads() == []
    assert run(hub, tmp_path, "org/private", HF_TOKEN="hf_wrong")["error"] == "HubError"
    assert run(hub, tmp_path, "org/private", HF_TOKEN="hf_secret")["sums"] == {"a": 96}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {},
            {
                "org/absent": "no such model",
                "org/versions@v9": "no revision 'v9'",
                "org/gated": "gated",
                "org/nothing": "neither model.safetensors nor pytorch_model.bin",
                "org/ggufs": "a-Q4_K.gguf, b.gguf",
                "org/ggufs:c.gguf": "no file 'c.gguf'",
                "org/lacking": "model-00002-of-00002.safetensors",
                "org/bad--name..x": "neither a path nor a hub id",
            },
        ),
        ({"HF_HUB_OFFLINE": "1"}, {"org/sharded": "not in the cache", "org/ggufs:b.gguf": "cache"}),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, {"org/sharded": "cannot be reached"}),
    ],
    ids=["answered", "offline", "unreachable"],
)
def test_what_the_hub_cannot_give_is_said_in_one_line(
    hub: Hub, tmp_path: Path, settings: dict[str, str], words: dict[str, str]
) -> None:
    results, errors = run_all(hub, tmp_path, list(words), **settings)
    for model, got in zip(words, results, strict=True):
        assert got["error"] == "HubError"
        assert words[model] in got["message"]
        assert "\n" not in got["message"]
        assert got["hint"], model
    assert errors == ""
    assert not [name for name in hub.downloads() if name.endswith((".safetensors", ".gguf"))]


def test_what_is_no_model_is_named_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    results, _ = run_all(hub, tmp_path, [f"org/{name}" for name in FOREIGN])
    for name, got in zip(FOREIGN, results, strict=True):
        assert got["error"] == "UnsupportedError"
        assert f"org/{name} holds" in got["message"]
        assert WORDS[name] in got["message"]
        assert got["hint"]
    assert hub.downloads() == []


def test_a_gguf_file_is_named_behind_its_repository(hub: Hub, tmp_path: Path) -> None:
    from gguf import GGUFWriter

    path = tmp_path / "x.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("t", np.full((2, 4), 2, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    hub.repos["org/ggufs"].revisions["main"]["a-Q4_K.gguf"] = path.read_bytes()
    commit = hub.repos["org/ggufs"].commit("main")
    models = ["org/ggufs:a-Q4_K.gguf", "org/ggufs/a-Q4_K.gguf"]
    online, _ = run_all(hub, tmp_path, models)
    offline, _ = run_all(hub, tmp_path, models, HF_HUB_OFFLINE="1")
    for got in online + offline:
        assert got == {"source": f"org/ggufs:a-Q4_K.gguf@{commit}", "sums": {"t": 16}}
    assert hub.downloads() == ["a-Q4_K.gguf"]


def test_progress_is_shown_when_asked_for(hub: Hub, tmp_path: Path) -> None:
    (got,), errors = run_all(hub, tmp_path, ["org/versions"], show=True)
    assert got["sums"] == {"a": 32}
    assert "Fetching 2 files" in errors


def test_a_download_that_breaks_off_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    large = save({"a": np.ones((1024, 6144), np.float32)})
    hub.repos["org/versions"].revisions["main"]["model.safetensors"] = large
    hub.cuts = 1
    got = run(hub, tmp_path, "org/versions")
    assert got["sums"] == {"a": 1024 * 6144}
    assert hub.cuts == 0
    assert any(not asked.startswith("bytes=0-") for asked in hub.ranges)
