import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from captures import run_capture
from common import save_model
from sampled_models import SAMPLE

from qconvert.checkpoint import open_checkpoint
from qconvert.containers.sizes import human_bytes
from qconvert.machine.watcher import Silent
from qconvert.plan.recipe import Recipe
from qconvert.report.building import backend_for, command, planned_besides
from qconvert.report.models import name_of, outputs_of
from qconvert.report.request import Asked
from qconvert.run.quantize import plan_outputs
from qconvert.run.types import Run


@pytest.mark.parametrize(
    ("wanted", "type_", "found"),
    [
        ("auto", "q4_k_m", "auto"),
        ("torch", "q4_k_m", "torch"),
        ("torch", "w8a8", "torch"),
        ("llama.cpp", "q4_k_m", "llama.cpp"),
        ("llama.cpp", "w8a8", "auto"),
        ("transformers", "q4_k_m", "auto"),
        ("transformers", "w8a8", "transformers"),
    ],
)
def test_a_backend_that_cannot_run_a_file_is_not_asked_to(wanted, type_, found):
    assert backend_for(wanted, type_) == found


def test_a_command_is_quoted_for_a_shell():
    asked = Asked("a model; rm -r x", (), Path("rep"), calibration=Path("a'b.safetensors"))
    recipe = Recipe("q4_k_m", calibration=asked.calibration)
    words = shlex.split(command(asked, recipe))
    assert words[:3] == ["qconvert", "quantize", "a model; rm -r x"]
    assert words[3:] == ["-t", "q4_k_m", "-c", "a'b.safetensors"]


def test_a_command_says_how_a_file_was_made():
    asked = Asked("m", (), Path("rep"), calibration=Path("c"))
    recipe = Recipe("w4a16", calibration=Path("c"), feedback=False, under=4_000_000)
    words = command(asked, recipe)
    assert words == "qconvert quantize m -t w4a16 --under 4M -c c --no-feedback"
    budget = Recipe("q3_k_m", calibration=Path("c"), under=4_000_000)
    assert command(asked, budget) == "qconvert quantize m --under 4M -c c"


def test_the_ways_of_a_type_side_by_side(tmp_path: Path):
    """Files of their own, whose names on the page differ."""
    save_model("llama", tmp_path / "m.1", wide=True)
    run_capture(tmp_path / "m.1", tmp_path / "c.safetensors", sample=SAMPLE)
    (tmp_path / "rep").mkdir()
    asked = Asked(
        str(tmp_path / "m.1"),
        ("q3_k_m", "w4a16"),
        tmp_path / "rep",
        calibration=tmp_path / "c.safetensors",
        ways=True,
        vocabulary=False,
    )
    watcher = Silent()
    checkpoint = open_checkpoint(asked.model)
    outputs = outputs_of(asked.types, tmp_path / "rep", asked.calibration)
    run = Run(2, watcher)
    named = plan_outputs(checkpoint, [replace(one, vocabulary=False) for one in outputs], run)
    besides = planned_besides(checkpoint, named, run)
    plans = [*named, *besides]
    names = [name_of(plan.recipe) for plan in plans]
    size = human_bytes(named[0].nbytes // 1000 * 1000)
    assert names == [
        "Q3_K_M",
        "w4a16",
        "Q3_K_M plain",
        "Q3_K_M importance",
        f"{size} budget",
        "w4a16 plain",
        "w4a16 importance",
    ]
    assert len({plan.target.path for plan in plans}) == len(plans)
    assert all(plan.target.path.parent == tmp_path / "rep" for plan in plans)
    q3, _, plain, importance, budget, *_ = plans
    assert (plain.sample, importance.sample) == (None, None)
    assert q3.sample is not None
    assert budget.nbytes <= q3.nbytes
