"""The functions of the package: its page runs as it stands, they give what the commands print, and
importing them is cheap."""

import doctest
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import TINY, write_llama
from speaking_models import PROSE
from vision_models import seeing

import qconvert
from qconvert.errors import UsageError

PAGE = Path(__file__).parent.parent / "examples/from_python.md"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("python")
    write_llama(folder / "model", TINY, tokenizer=True)
    words = random.Random(1).choices(PROSE.split(), k=20_000)
    (folder / "text.txt").write_text(" ".join(words))
    return folder


def test_the_page_runs_as_it_stands(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    failed, tried = doctest.testfile(str(PAGE), module_relative=False)
    assert (failed, tried > 10) == (0, True)


def test_a_vision_part_is_the_commands(tmp_path: Path):
    model = seeing("Qwen2VL")[0]
    program = str(Path(sys.executable).with_name("qconvert"))
    options = ["--mmproj", "--dtype", "q8_0", "-o", tmp_path / "a.gguf"]
    subprocess.run([program, "export", model, *options], capture_output=True, check=True)
    qconvert.export(model, tmp_path / "b.gguf", dtype="q8_0", mmproj=True)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    with pytest.raises(UsageError, match="is no dtype"):
        qconvert.export(model, tmp_path / "c.gguf", dtype="q8_0")


def test_importing_is_cheap():
    code = "import qconvert, sys; print(sorted(m for m in sys.modules if 'qconvert' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['qconvert']"
    code = "from qconvert import quantize; import sys; print({'torch', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_file_is_the_commands(place: Path, tmp_path: Path):
    program = str(Path(sys.executable).with_name("qconvert"))
    options = ["-t", "q4_k_m", "--keep", "blk.1.*", "--override", "token_embd.weight=q8_0"]
    command = [program, "quantize", place / "model", *options, "--json", "-o", tmp_path / "a.gguf"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (said,) = json.loads(done.stdout)["outputs"]
    made = qconvert.quantize(
        place / "model",
        "q4_k_m",
        tmp_path / "b.gguf",
        keep=["blk.1.*"],
        override={"token_embd.weight": "q8_0"},
    )
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert made.nbytes == said["bytes"]


def test_options_that_are_none_are_named(place: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="quantize has no option purity"):
        qconvert.quantize(place / "model", "q8_0", tmp_path / "x", purity=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = qconvert.quantise  # type: ignore[attr-defined]


def test_several_types_are_made_at_once_as_they_are_planned(place: Path, tmp_path: Path):
    asked = (place / "model", ["q8_0", "w4a16"], tmp_path / "out")
    planned = qconvert.quantize_all(*asked, dry_run=True, pure=None, keep=[])
    assert not list(tmp_path.iterdir())
    made = qconvert.quantize_all(*asked, save_recipe=tmp_path / "recipe.yaml")
    assert [one.paths for one in made] == [one.paths for one in planned]
    for one in made:
        assert one.nbytes == sum(path.stat().st_size for path in one.paths)
    again = qconvert.quantize_all(asked[0], (), asked[2], recipe=tmp_path / "recipe.yaml")
    assert [one.resumed for one in again] == [len(one.plan.tensors) for one in made]


def test_values_that_are_none_are_named(place: Path, tmp_path: Path):
    wrong: list[dict[str, object]] = [
        {"kv": "fp9"},
        {"smooth": 2},
        {"group_size": 48},
        {"percentile": 20.0},
        {"public": True},
    ]
    for options in wrong:
        with pytest.raises(UsageError, match=next(iter(options)).replace("_", "-")):
            qconvert.quantize(place / "model", "w4a16", tmp_path / "x", **options)  # type: ignore[arg-type]
