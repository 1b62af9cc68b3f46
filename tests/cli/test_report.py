"""A report from a model to a page, as its users make it."""

import csv
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from pruned_models import drawn_cut, written
from speaking_models import PROSE
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner
from writing_models import write_model

from qconvert.checkpoint import open_checkpoint
from qconvert.cli.app import Session, app
from qconvert.errors import QconvertError
from qconvert.model.open import open_model
from qconvert.plan.pruning.cut import shape_of
from qconvert.text.perplexity_windows import read_windows

pytestmark = pytest.mark.slow

TYPES = ("-t", "q8_0", "-t", "q2_k", "-t", "w8a16")
FILES = ["report.html", "report.json", "report.csv"]
PLOTS = ["divergence", "perplexity", "speed", "sensitivity"]
QUICK = ("--no-speed", "--no-answers", "--no-sensitivity")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a model and a text, and a cache of its own."""
    folder = tmp_path_factory.mktemp("report")
    write_model(folder / "model", wide=True, num_hidden_layers=2)
    (folder / "text.txt").write_text(PROSE * 12)
    (folder / "prompts.txt").write_text("Which way does the wind blow?\nWho is there?\n")
    return folder


def words_of(place: Path, folder: str, more: tuple, model: str = "model") -> list[str]:
    words = ["report", place / model, "--data", place / "text.txt", "--window", 32]
    return [str(word) for word in (*words, "--threads", 1, "-o", place / folder, *more)]


@pytest.fixture(scope="module")
def made(qconvert, place):
    """The run that the others go on from."""
    more = (*TYPES, "--prompts", place / "prompts.txt", "--answer-tokens", 6, "--json")
    done = qconvert(*words_of(place, "rep", more), QCONVERT_CACHE=str(place / "cache"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def report(place, monkeypatch):
    """Runs the command in this process, which has loaded its libraries already."""
    monkeypatch.delenv("CI", raising=False)

    def run(*more: object, folder: str = "rep", model: str = "model") -> Done:
        environment = {"QCONVERT_CACHE": str(place / "cache")}
        words = words_of(place, folder, more, model)
        result = CliRunner().invoke(app, words, obj=Session(), env=environment)
        error = result.exception
        if isinstance(error, QconvertError):
            return Done(error.exit_code, result.stdout, f"{result.stderr}{error.message}")
        assert error is None or isinstance(error, SystemExit), error
        return Done(result.exit_code, result.stdout, result.stderr)

    return run


def kept(place: Path) -> dict[str, int]:
    return {
        path.name: path.stat().st_ino
        for folder in (place / "rep/.measured", place / "rep/models")
        for path in folder.iterdir()
    }


def test_everything_is_there(made, place):
    folder = place / "rep"
    names = {path.name for path in folder.iterdir()}
    pictures = {f"{name}.{form}" for name in PLOTS for form in ("png", "svg")}
    assert names == {*FILES, *pictures, "models", ".measured"}
    page = (folder / "report.html").read_text()
    for word in ("Q8_0", "Q2_K", "w8a16", "Which way does the wind blow?", "blk.0"):
        assert word in page
    assert page.count("<svg") == 6
    assert "http" not in page.replace("http-equiv", "")


def test_the_tables_say_what_was_printed(made, place):
    assert json.loads((place / "rep/report.json").read_text()) == made
    with (place / "rep/report.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["name"] for line in lines] == [one["name"] for one in made["files"]]
    sizes = [one["bytes"] for one in made["files"]]
    assert sizes == sorted(sizes, reverse=True)
    by_name = {one["name"]: one for one in made["files"]}
    assert set(by_name) == {"Q8_0", "Q2_K", "w8a16"}
    near, far = (by_name[name]["kl_divergence"]["mean"] for name in ("Q8_0", "Q2_K"))
    assert 0 < near < far
    for one in made["files"]:
        path = place / "rep" / one["path"]
        files = [path] if path.is_file() else list(path.iterdir())
        assert one["bytes"] == sum(file.stat().st_size for file in files)
        assert one["speed"]["generated_per_second"]["median"] > 0
    assert made["original"]["perplexity"] > 1


def test_the_figures_are_those_of_evaluate(qconvert, made, place):
    files = [place / "rep" / one["path"] for one in made["files"]]
    done = qconvert(
        *["evaluate", *files, "--reference", place / "model", "--data", place / "text.txt"],
        *["--window", 32, "--json", "--threads", 1],
        QCONVERT_CACHE=str(place / "cache"),
    )
    assert done.returncode == 0, done.stderr
    for one, own in zip(json.loads(done.stdout)["files"], made["files"], strict=True):
        assert own["perplexity"] == pytest.approx(one["perplexity"], rel=1e-9)
        mean = one["kl_divergence"]["mean"]
        assert own["kl_divergence"]["mean"] == pytest.approx(mean, rel=1e-9)


def test_the_commands_make_the_same_bytes_again(qconvert, made, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for one in made["files"]:
        if one["name"] == "Q8_0":
            continue
        program, *words = shlex.split(one["command"])
        assert program == "qconvert"
        done = qconvert(*words, "--quiet")
        assert done.returncode == 0, done.stderr
        theirs = place / "rep" / one["path"]
        mine = tmp_path / theirs.name
        names = [path.name for path in theirs.iterdir()] if theirs.is_dir() else [""]
        for name in names:
            assert (mine / name).read_bytes() == (theirs / name).read_bytes()


def test_a_second_run_measures_nothing_and_writes_the_same_page(report, made, place):
    before, page = kept(place), (place / "rep/report.html").read_bytes()
    done = report(*TYPES, "--prompts", place / "prompts.txt", "--answer-tokens", 6)
    assert done.returncode == 0, done.stderr
    assert kept(place) == before
    assert (place / "rep/report.html").read_bytes() == page
    assert "take " in done.stdout
    assert done.stdout.splitlines()[-1] == str(place / "rep/report.html")
    assert "\x1b" not in done.stdout
    assert "from the original, nats" not in done.stdout, "the plot is for terminals"


def test_one_more_type_evaluates_only_that(report, made, place):
    before = kept(place)
    done = report(*TYPES, "-t", "q4_0", *QUICK, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    new = {name for name in kept(place) if name not in before}
    assert sorted(name.partition("-")[0] for name in new) == ["model", "scores", "scores"]
    assert {name: kept(place)[name] for name in before} == before
    page = (place / "rep/report.html").read_text()
    assert "Q4_0" in page
    assert "Which way" not in page


def test_a_wish_names_a_file_or_fails(report, made, place):
    sizes = {one["name"]: one["bytes"] for one in made["files"]}
    under = f"{(sizes['Q2_K'] + sizes['Q8_0']) // 2 / 1e6:.3f}MB"
    done = report(*TYPES, *QUICK, "--under", under, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["choice"]["name"] == "Q2_K"
    done = report(*TYPES, *QUICK, "--under", "1kB", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["choice"]["name"] is None
    assert "no file is under 1 kB" in done.stderr
    assert "Q2_K" in done.stderr
    assert "No file is as you wished" in (place / "rep/report.html").read_text()


def divergences(place: Path, models: Sequence[Path]) -> list[float]:
    """From the original, as transformers computes it on the same windows."""
    windows = read_windows(open_checkpoint(str(place / "model")), str(place / "text.txt"), None, 32)
    ids = torch.from_numpy(windows.tokens.astype(np.int64))
    with torch.no_grad():
        p, *others = (
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(ids)
            .logits[:, windows.first : -1]
            .double()
            .log_softmax(-1)
            for path in (place / "model", *models)
        )
    return [float((p.exp() * (p - q)).sum(-1).mean()) for q in others]


def test_what_prune_and_distill_leave_is_held_against_the_original(report, place):
    """Files of fewer layers, of another width, and of a student that was taught."""
    own = open_model(open_checkpoint(str(place / "model")))
    for name, part in (("fewer", "layers"), ("narrower", "hidden")):
        written(own, drawn_cut(part, shape_of(own)), place / name)
    teach = ["distill", place / "fewer", "--teacher", place / "model", "--data"]
    teach += [place / "text.txt", "--tokens", 1024, "--window", 32, "--rate", 0.05]
    words = [str(word) for word in (*teach, "-o", place / "taught", "--threads", 1, "--quiet")]
    assert CliRunner().invoke(app, words, obj=Session()).exit_code == 0
    names = ("fewer", "narrower", "taught")
    found = []
    for name in names:
        asked = ("-t", "f32", "--reference", place / "model", *QUICK, "--json")
        done = report(*asked, folder=f"of-{name}", model=name)
        assert done.returncode == 0, done.stderr
        (file,) = json.loads(done.stdout)["files"]
        found.append(file["kl_divergence"]["mean"])
    expected = divergences(place, [place / name for name in names])
    np.testing.assert_allclose(found, expected, rtol=0.02)
    assert expected[0] > 0.01
    assert expected[2] < expected[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-t", "q9_9"), "q9_9"),
        (("--under", "heavy"), "--under"),
        (("--within", "near"), "--within"),
        (("--backend", "abacus"), "abacus"),
        (("-c", "none.safetensors"), "none.safetensors"),
    ],
)
def test_mistakes_are_told_in_a_line(report, place, words, said):
    done = report(*words, *QUICK, folder="wrong")
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert not (place / "wrong").exists()


def test_a_file_in_the_way_is_told(report, place):
    (place / "file").write_text("mine")
    done = report(*TYPES, *QUICK, folder="file")
    assert done.returncode == 2
    assert (place / "file").read_text() == "mine"
