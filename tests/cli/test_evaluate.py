"""`qconvert evaluate` on the command line."""

import json
import math
import signal
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from evaluations import evaluation, file_scores
from speaking_models import PROSE, convert_speaking_model, save_speaking_model

from qconvert.cli.evaluate_shown import order_lines

SMALL = ("--window", "32", "--device", "cpu", "--threads", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    save_speaking_model(folder / "model", wide=True, num_hidden_layers=2)
    for kind in ("q8_0", "q2_k"):
        convert_speaking_model(folder / "model", kind)
    (folder / "text.txt").write_text(PROSE * 6)
    return folder


@pytest.fixture
def evaluate(qconvert, place):
    def run(*arguments, data="text.txt", **settings):
        return qconvert(
            "evaluate",
            *(place / one if str(one).startswith("model") else one for one in arguments),
            "--reference", place / "model", "--data", place / data, *SMALL,
            **{"QCONVERT_CACHE": str(place / "cache"), "GITHUB_STEP_SUMMARY": ""} | settings,
        )  # fmt: skip

    return run


def test_json_has_every_figure(evaluate, place):
    done = evaluate("model-q8_0.gguf", "model-q2_k.gguf", "--json", "--tokens", "300")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["reference"] == str(place / "model")
    assert (found["data"], found["tokens"], found["windows"]) == ("text.txt", 288, 9)
    assert found["scored_tokens"] == 9 * 15
    first, second = found["files"]
    assert first["path"] == str(place / "model-q8_0.gguf")
    assert first["bytes"] == (place / "model-q8_0.gguf").stat().st_size
    assert (first["type"], first["backend"]) == ("Q8_0", "llama.cpp")
    assert 8 < first["bits_per_weight"] < 9
    divergence = first["kl_divergence"]
    assert set(divergence) == {
        "mean", "standard_error", "median", "p90", "p99", "p999", "max", "bound",
    }  # fmt: skip
    assert divergence["mean"] < 0.005 < second["kl_divergence"]["mean"]
    assert divergence["median"] <= divergence["p90"] <= divergence["p99"] <= divergence["p999"]
    assert 0 <= second["same_top"] <= first["same_top"] <= 1
    assert first["perplexity_ratio"] == pytest.approx(
        first["perplexity"] / found["reference_perplexity"]
    )
    (pair,) = found["pairs"]
    assert (pair["smaller"], pair["share"]) == (first["path"], 1.0)
    assert found["gates"] == []


def test_people_get_a_table_and_the_order(evaluate):
    done = evaluate("model-q2_k.gguf", "model-q8_0.gguf")
    assert done.returncode == 0, done.stderr
    assert "Q2_K" in done.stdout
    assert "perplexity is" in done.stdout
    lines = done.stdout.splitlines()
    (order,) = [line for line in lines if " than " in line]
    assert order.split()[0] == "100.0%"
    assert order.index("q8_0") < order.index("q2_k")


def test_a_gate_that_is_missed_fails_and_everything_is_written(evaluate, tmp_path):
    page, table, gates = tmp_path / "page.md", tmp_path / "table.md", tmp_path / "gates.xml"
    page.write_text("before\n")
    done = evaluate(
        "model-q8_0.gguf", "model-q2_k.gguf", "--max-kld", "0.005", "--junit", gates,
        "--summary", table, "--max-perplexity-increase", "900%", "--json",
        GITHUB_STEP_SUMMARY=str(page),
    )  # fmt: skip
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [one["passed"] for one in found["gates"]] == [True, True, False, True]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    mean = found["files"][1]["kl_divergence"]["mean"]
    assert f"model-q2_k.gguf: mean KL divergence {mean:.4g} is above 0.005 by" in line
    suite = ET.parse(gates).getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("4", "1")
    assert page.read_text() == "before\n" + table.read_text()
    assert "**failed**" in table.read_text()


def test_gates_that_are_kept_pass_in_silence(evaluate):
    gates = ("--max-kld", "0.005", "--max-perplexity-increase", "2%")
    done = evaluate("model-q8_0.gguf", *gates, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_exact_form_has_no_bound_and_one_window_no_standard_error(evaluate):
    done = evaluate("model", "--json", "--exact", "--tokens", "32")
    assert done.returncode == 0, done.stderr
    assert "kept for later runs" in done.stderr
    found = json.loads(done.stdout)
    divergence = found["files"][0]["kl_divergence"]
    assert divergence["mean"] == divergence["bound"] == found["bound"]["value"] == 0
    assert divergence["standard_error"] is None
    assert math.isfinite(found["files"][0]["perplexity_standard_error"])


def test_few_windows_cannot_tell():
    made = evaluation(file_scores("a", 0.1), file_scores("b", 0.2))
    assert order_lines(made) == [
        "fewer than 8 windows cannot tell which is nearer: use a longer text"
    ]
    files = [file_scores(name, mean) for name, mean in (("a", 0.3), ("b", 0.1), ("c", 0.11))]
    made = evaluation(*files, better={(0, 1): 0.02, (0, 2): 0.03, (1, 2): 0.7})
    assert order_lines(made)[1:] == ["   70.0%  b than c (not sure)", "   97.0%  c than a"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("model-q8_0.gguf", "--data", "short.txt"), 1, "too short"),
        (("torn.gguf",), 1, "torn.gguf"),
        (("model-q8_0.gguf", "--max-perplexity-increase", "2"), 2, "2% or 0.02"),
        (("model-q8_0.gguf", "--junit", "short.txt/where.xml"), 1, "short.txt is no directory"),
    ],
)
def test_bad_input_is_one_line_and_a_hint_and_nothing_is_written(
    evaluate, place, tmp_path, monkeypatch, arguments, code, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("Rain.")
    (tmp_path / "torn.gguf").write_bytes((place / "model-q8_0.gguf").read_bytes()[:300_000])
    page = tmp_path / "page.md"
    written = () if "--junit" in arguments else ("--junit", "gates.xml")
    data = {"data": tmp_path / "short.txt"} if "--data" in arguments else {}
    rest = [one for one in arguments if one not in ("--data", "short.txt")]
    done = evaluate(*rest, *written, "--max-kld", "1", GITHUB_STEP_SUMMARY=str(page), **data)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} == {"short.txt", "torn.gguf"}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_removes_temporary_files(how, interrupt, place, tmp_path):
    (tmp_path / "long.txt").write_text(PROSE * 300)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = ["evaluate", place / "model", "--reference", place / "model"]
    command += ["--data", tmp_path / "long.txt", "--backend", "torch", *SMALL]
    settings = {"TMPDIR": str(temporary), "QCONVERT_CACHE": str(tmp_path / "cache")}
    ended = interrupt(how, lambda: list(temporary.glob("*/states-1")), *command, **settings)
    assert ended.returncode == 130
    assert ended.stdout == ""
    assert "interrupted: the same command begins this anew" in ended.stderr
    assert not list(temporary.glob("qconvert-*"))
    assert not list((tmp_path / "cache").rglob("*.zip"))
