"""Outputs on their way to the hub: `--push` and `-o hf://`, against a hub on loopback."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, running


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with running({}) as server:
        server.writers = ("secret",)
        yield server


@pytest.fixture
def run(qconvert, hub, tmp_path) -> Any:
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "secret",
    }
    return lambda *words, **more: qconvert(*words, **(settings | more))


def test_files_arrive_in_one_private_commit_with_the_figures_beside_them(run, hub, model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    row = {"path": "tiny-llama-Q8_0.gguf", "perplexity": 12.5, "perplexity_ratio": 1.01}
    row |= {"kl_divergence": {"mean": 0.0125}, "same_top": 0.97}
    found = {"reference": "org/tiny", "data": "wiki.txt", "files": [row]}
    (out / "figures.json").write_text(json.dumps(found))
    (out / "else.json").write_text('["something"]')
    asked = ("quantize", model, "-t", "q8_0", "-t", "q4_k_m", "-o", out)
    done = run(*asked, "--push", "org/new")
    assert done.returncode == 0, done.stderr
    assert "org/new has 3 files" in done.stderr
    repo = hub.repos["org/new"]
    assert repo.private
    assert len(repo.messages) == 1
    files = repo.files("main")
    for name in ("tiny-llama-Q8_0.gguf", "tiny-llama-Q4_K_M.gguf"):
        assert files[name] == (out / name).read_bytes()
    card = files["README.md"].decode()
    assert card.startswith('---\nlibrary_name: "gguf"')
    assert "| tiny-llama-Q8_0.gguf | wiki.txt | 12.5 | 1.01 | 0.0125 | 0.97 |" in card
    hub.requests.clear()
    assert run(*asked, "--push", "org/new").returncode == 0  # up to date here, and there
    assert not any(line.startswith("PUT") for line in hub.requests)


def test_a_directory_fills_a_repository_and_keeps_its_card(run, hub, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gguf = tmp_path / "m.gguf"
    assert run("export", model, "-o", gguf).returncode == 0
    done = run("export", gguf, "-o", "hf://org/back", "--public", "--json")
    assert done.returncode == 0, done.stderr
    (said,) = json.loads(done.stdout)["outputs"]
    files = hub.repos["org/back"].files("main")
    assert {Path(path).name for path in said["paths"]} == files.keys()
    assert not hub.repos["org/back"].private
    assert files["README.md"] == (tmp_path / "m/README.md").read_bytes()


def test_an_upload_that_broke_off_goes_on(run, hub, model, tmp_path):
    asked = ("quantize", model, "-t", "q8_0", "-t", "q4_0", "-o", tmp_path / "o", "--push", "a/b")
    hub.cuts = 1000
    done = run(*asked)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "o").glob("*.gguf"))) == 2
    hub.cuts = 0
    assert run(*asked).returncode == 0
    assert len(hub.repos["a/b"].files("main")) == 3


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        (("--push", "nobody"), {}, "'nobody' is no repository of the hub"),
        (("--public",), {}, "--public is for a repository"),
        (("-o", "hf://a/b", "--push", "a/c"), {}, "-o and --push name two repositories"),
        (("--push", "a/b"), {"HF_TOKEN": "other"}, "lets nobody write to a/b without a token"),
        (
            ("--push", "a/b"),
            {"HF_HUB_OFFLINE": "1"},
            "a/b: the hub is not asked, as HF_HUB_OFFLINE says",
        ),
    ],
)
def test_what_goes_wrong_is_one_line(run, model, tmp_path, monkeypatch, words, settings, said):
    monkeypatch.chdir(tmp_path)
    done = run("quantize", model, "-t", "q4_0", *words, **settings)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
