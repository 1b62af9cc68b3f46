"""Data sets from a hub on loopback, through `datasets` itself, in a process of its own, since the
library reads its environment on import."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub, Repo, running

READ = """
import json, sys
from qconvert.text.hub_data import read_dataset, read_here
from qconvert.errors import QconvertError
for apart, *arguments in json.loads(sys.argv[1]):
    name = "/".join(filter(None, arguments[:2]))
    try:
        text = read_dataset(*arguments, 0) if apart else read_here(name, *arguments, 0)
    except QconvertError as error:
        print(json.dumps({"error": type(error).__name__ + ": " + error.message}))
    else:
        print(json.dumps({
            "texts": [d.text for d in text.documents],
            "kinds": sorted({d.kind for d in text.documents}),
            "complete": text.complete,
            "detail": text.detail,
        }))
"""
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
CONFIGS = """---
configs:
- config_name: small
  data_files: small.jsonl
- config_name: other
  data_files: other.jsonl
---
"""


def parquet(name: str, rows: int) -> bytes:
    stream = io.BytesIO()
    texts = [f"{name} {row:04}" for row in range(rows)]
    pq.write_table(pa.table({"text": texts, "id": range(rows)}), stream, row_group_size=50)
    return stream.getvalue()


def jsonl(*records: dict) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.fixture(scope="module")
def hub():
    repos = {
        "parquet": {
            **{f"data/train-0000{n}-of-00003.parquet": parquet(f"file{n}", 500) for n in range(3)},
            "data/test-00000-of-00001.parquet": parquet("test", 5),
        },
        "chats": {"train.jsonl": jsonl({"messages": CHAT, "prompt": "Hi"})},
        "configs": {
            "README.md": CONFIGS.encode(),
            "small.jsonl": jsonl({"text": "small"}),
            "other.jsonl": jsonl({"text": "other"}),
        },
        "splits": {"validation.jsonl": jsonl({"text": "a"}), "test.jsonl": jsonl({"text": "b"})},
        "script": {"script.py": b"raise SystemExit"},
        "columns": {"train.csv": b"a,b\nx,y\n"},
        "beginning": {"train.jsonl": jsonl(*({"text": f"row {n} " * 20} for n in range(2000)))},
    }
    with running(
        {f"datasets/org/{name}": Repo({"main": f}) for name, f in repos.items()}
    ) as server:
        server.repos["datasets/org/gated"] = Repo({"main": {"train.jsonl": b"{}"}}, gated=True)
        yield server


def read(hub: Hub, home: Path, *arguments: tuple, apart: bool = False, **extra: str) -> list[dict]:
    """What a process finds, which has another one read or reads itself."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    proxies = {k: "" for k in keep if k.lower().endswith("_proxy")}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps([[apart, *one] for one in arguments])],
        env={**keep, **proxies, **settings, **extra},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "%|" not in done.stderr, "a progress bar"
    return [json.loads(line) for line in done.stdout.splitlines()]


LARGE = ("org/parquet", "", "train", "", 500)
FOUND = {
    "test split": ("org/parquet", "", "test", "", 10**6),
    "chats": ("org/chats", "", "", "", 10**6),
    "named column": ("org/chats", "", "train", "prompt", 10**6),
    "configuration": ("org/configs", "small", "", "", 10**6),
    "large": LARGE,
    "large again": LARGE,
    "all": ("org/parquet", "", "train", "", 10**6),
    "beginning": ("org/beginning", "", "", "", 5000),
}
REFUSED = {
    ("org/none", "", "", ""): "HubError: org/none: no such file here, and no such data set",
    ("org/gated", "", "", ""): "HubError: the data set org/gated is gated",
    ("org/script", "", "", ""): "HubError: ",
    ("org/configs", "", "", ""): "UsageError: org/configs: Config name is missing",
    ("org/configs", "none", "", ""): "UsageError: org/configs/none: BuilderConfig 'none' not",
    ("org/splits", "", "", ""): "UsageError: org/splits has several splits: ",
    ("org/splits", "", "none", ""): "UsageError: org/splits has no split 'none'; it has ",
    ("org/columns", "", "", ""): "UsageError: org/columns@train has several columns with text;",
    ("org/columns", "", "", "c"): "UsageError: org/columns@train has no column 'c'; its col",
}


@pytest.fixture(scope="module")
def answers(hub, tmp_path_factory) -> dict:
    """All answers of one process: the library takes long to import."""
    questions = [*FOUND.values(), *((*arguments, 1000) for arguments in REFUSED)]
    got = read(hub, tmp_path_factory.mktemp("home"), *questions)
    return dict(zip([*FOUND, *REFUSED], got, strict=True))


def test_splits_columns_configurations_and_conversations_are_found(hub, answers):
    commit = hub.repos["datasets/org/parquet"].commit("main")
    test, chats, named = (answers[key] for key in ("test split", "chats", "named column"))
    assert test["texts"] == [f"test {row:04}" for row in range(5)]
    assert test["complete"]
    assert test["detail"] == f"split test, column text, revision {commit[:12]}"
    assert (json.loads(chats["texts"][0]), chats["kinds"]) == (CHAT, ["chat"])
    assert (named["texts"], named["kinds"]) == (["Hi"], ["document"])
    assert answers["configuration"]["texts"] == ["small"]


def test_a_large_data_set_is_read_in_places_all_over_its_files(answers):
    first = answers["large"]
    rows = {(text[4], int(text.split()[1]) // 50) for text in first["texts"]}
    assert not first["complete"]
    assert {file for file, _ in rows} == {"0", "1", "2"}
    assert len({group for _, group in rows}) >= 6
    assert max(group for _, group in rows) >= 7
    assert first == answers["large again"]


def test_all_of_a_data_set_is_read_where_that_is_wanted(answers):
    expected = {f"file{file} {row:04}" for file in range(3) for row in range(500)}
    assert set(answers["all"]["texts"]) == expected
    assert answers["all"]["complete"]


def test_a_file_that_has_to_be_read_from_its_beginning_is_said_to_be(answers):
    text = answers["beginning"]
    assert not text["complete"]
    assert text["detail"].endswith("from its beginning")


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_cannot_be_had_is_explained(answers, arguments):
    assert answers[arguments]["error"].startswith(REFUSED[arguments])


@pytest.mark.parametrize(
    "settings", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:1"}]
)
def test_a_hub_out_of_reach_is_an_error(hub, tmp_path, settings):
    (answer,) = read(hub, tmp_path, ("org/parquet", "", "", "", 1000), **settings)
    assert "HubError: the data set org/parquet: the hub cannot be reached" in answer["error"]


def test_parquet_that_damages_its_reader_is_an_error(hub, tmp_path):
    """What pyarrow makes of it must not end the program: another process reads."""
    whole = parquet("damaged", 500)
    hub.repos["datasets/org/damaged"] = Repo({"main": {"train.parquet": damaged(whole)}})
    intact, broken = read(hub, tmp_path, LARGE, ("org/damaged", "", "", "", 500), apart=True)
    assert len(intact["texts"]) > 20
    assert broken["error"].startswith(("HubError", "CheckpointError"))


def damaged(parquet_: bytes) -> bytes:
    """Its pages are something else, its end is as it was."""
    footer = int.from_bytes(parquet_[-8:-4], "little") + 8
    return parquet_[:4] + bytes(len(parquet_) - footer - 4) + parquet_[-footer:]
