"""Hub ids on the command line: planning needs no weights, converting fetches them."""

import json
import shutil

import gguf
import pytest
from checkpoints import TINY, write_llama
from hub_server import Repo, running
from transformers import AutoModelForImageTextToText
from vision_models import seeing


@pytest.fixture
def hub(tmp_path):
    """A server with one sharded model, and the environment that points to it."""
    folder = write_llama(tmp_path / "model", TINY, tokenizer=True, shard=1_000_000)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sum(name.endswith(".safetensors") for name in files) > 2
    with running({"org/tiny": Repo({"main": files})}) as server:
        server.settings = {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        server.folder = folder
        yield server


def shards_fetched(hub) -> list[str]:
    return [name for name in hub.downloads() if name.endswith(".safetensors")]


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "org/tiny", "--json"],
        ["quantize", "org/tiny", "-t", "q4_k_m", "--dry-run", "--json"],
    ],
)
def test_what_only_plans_fetches_headers_alone(qconvert, hub, command):
    done = qconvert(*command, **hub.settings)
    assert done.returncode == 0, done.stderr
    assert len(hub.ranges) == len(shards_fetched(hub)) > 2
    local = qconvert(command[0], hub.folder, *command[2:])
    told, expected = json.loads(done.stdout), json.loads(local.stdout)
    if command[0] == "quantize":
        (told,), (expected,) = told["outputs"], expected["outputs"]
    assert told["tensors"] == expected["tensors"]
    assert told["source" if command[0] == "inspect" else "path"].startswith(
        "org/tiny@" if command[0] == "inspect" else "tiny-Q4_K_M"
    )


def test_a_model_from_the_hub_is_the_model_in_the_directory(qconvert, hub, tmp_path):
    out, local = tmp_path / "hub.gguf", tmp_path / "local.gguf"
    assert qconvert("inspect", "org/tiny", **hub.settings).returncode == 0
    done = qconvert("quantize", "org/tiny", "-t", "q8_0", "-o", out, "--json", **hub.settings)
    assert done.returncode == 0, done.stderr
    assert qconvert("quantize", hub.folder, "-t", "q8_0", "-o", local).returncode == 0
    fields = [json.loads(qconvert("inspect", path, "--json").stdout) for path in (out, local)]
    prints = [data["metadata"]["qconvert.source.fingerprint"] for data in fields]
    assert prints[0] == prints[1]
    assert fields[0]["tensors"] == fields[1]["tensors"]
    assert fields[0]["metadata"]["qconvert.source"].startswith("org/tiny@")
    hub.requests.clear()
    again = qconvert("inspect", "org/tiny", **hub.settings)
    assert again.returncode == 0
    assert shards_fetched(hub) == []


def test_a_cache_is_where_the_option_says(qconvert, hub, tmp_path):
    cache = tmp_path / "kept here"
    words = ("quantize", "org/tiny", "-t", "q8_0", "-o", tmp_path / "x.gguf")
    done = qconvert(*words, "--cache-dir", cache, **hub.settings)
    assert done.returncode == 0, done.stderr
    assert (cache / "models--org--tiny").is_dir()
    assert not (tmp_path / "home/hub/models--org--tiny").exists()
    hub.requests.clear()
    offline = hub.settings | {"HF_HUB_OFFLINE": "1"}
    assert qconvert("inspect", "org/tiny", "--cache-dir", cache, **offline).returncode == 0
    done = qconvert("inspect", "org/tiny", **offline)
    assert "the hub cannot be reached" in done.stderr
    (tmp_path / "file").write_text("")
    done = qconvert("inspect", "org/tiny", "--cache-dir", tmp_path / "file", **hub.settings)
    assert (done.returncode, "is no folder" in done.stderr) == (2, True)


def test_what_the_hub_refuses_is_one_line(qconvert, hub):
    hub.repos["org/gated"] = Repo({"main": {}}, gated=True)
    for name, said in (
        ("org/gated", "org/gated is gated, and access was not granted"),
        ("org/tiny@gone", "org/tiny has no revision 'gone'"),
        ("org/nothing", "no such model on the hub, or it is private"),
    ):
        done = qconvert("quantize", name, "-t", "q8_0", **hub.settings)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {name.partition('@')[0]}")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 2


def test_a_vision_part_needs_the_files_that_hold_it(qconvert, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(seeing("Qwen3VL")[0], dtype="auto")
    folder = tmp_path / "eyes"
    shutil.copytree(seeing("Qwen3VL")[0], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(folder, max_shard_size=400_000)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    held = json.loads(files["model.safetensors.index.json"])["weight_map"]
    needed = {shard for name, shard in held.items() if ".visual." in name}
    local, out = tmp_path / "local.gguf", tmp_path / "hub.gguf"
    assert qconvert("export", folder, "--mmproj", "-o", local, "-q").returncode == 0
    with running({"org/eyes": Repo({"main": files})}) as server:
        settings = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
        done = qconvert("export", "org/eyes", "--mmproj", "-o", out, **settings)
        assert done.returncode == 0, done.stderr
    cached = {path.name for path in (tmp_path / "home").rglob("snapshots/*/*.safetensors")}
    assert cached == needed < set(held.values())
    here, there = gguf.GGUFReader(local), gguf.GGUFReader(out)
    for one, other in zip(here.tensors, there.tensors, strict=True):
        assert (one.name, one.data.tobytes()) == (other.name, other.data.tobytes())
    key = "qconvert.source.fingerprint"
    assert here.fields[key].contents() == there.fields[key].contents()
