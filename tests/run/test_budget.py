"""Outputs of so many bytes: held against the named mixtures by transformers, on tokens that nobody
saw."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from common import save_model
from gguf import GGUFReader
from listening import Listening
from sampled_models import SAMPLE, divergence, quantized

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import PlanError, UsageError
from qconvert.machine.watcher import Silent
from qconvert.plan.document import options_of, read_document
from qconvert.plan.recipe import Recipe
from qconvert.plan.saving import document_of, write_document
from qconvert.run.quantize import plan_outputs
from qconvert.run.types import Run

BLOCKS = 8


def planned(made: Any, family: str, recipe: Recipe, watcher: Any = None) -> Any:
    _, model, calibration = made(family)
    asked = replace(recipe, calibration=calibration, vocabulary=False)
    (plan,) = plan_outputs(open_checkpoint(str(model)), [asked], Run(2, watcher or Silent()))
    return plan


@pytest.mark.parametrize(
    ("family", "type_"),
    [("llama", "q2_k"), ("gpt2", "q3_k_m"), ("qwen3_moe", "q3_k_m")],
)
def test_in_the_bytes_of_a_mixture_it_loses_less(
    made: Any, family: str, type_: str, tmp_path: Path
):
    model = made(family)[0]
    named = quantized(made, family, Recipe(type_, output=tmp_path / "named.gguf"))
    budget = named.stat().st_size
    own = tmp_path / "own"
    own.mkdir()
    recipe = Recipe("q8_0", output=own / "own.gguf", under=budget)
    path = quantized(made, family, recipe)
    assert 0.97 * budget < path.stat().st_size <= budget  # small models have large steps
    assert divergence(model, path, own) < 0.95 * divergence(model, named, tmp_path)
    assert [one.name for one in own.iterdir() if "partial" in one.name] == []


def test_bits_are_those_of_all_weights(made: Any, tmp_path: Path):
    plan = planned(made, "llama", Recipe("q8_0", output=tmp_path / "x.gguf", bits=4.5))
    assert 4.3 < plan.bits_per_weight <= 4.5
    assert len({tensor.format for tensor in plan.tensors}) > 3


def test_an_interrupted_measurement_is_taken_up(made: Any, tmp_path: Path):
    whole = planned(made, "llama", Recipe("q8_0", output=tmp_path / "whole.gguf", bits=4))
    recipe = Recipe("q8_0", output=tmp_path / "x.gguf", bits=4)
    done = []
    for steps in (70, 32 * BLOCKS + 3, 1, 10**9):  # on the way through, and on the way back
        watcher = Listening(steps)
        try:
            plan = planned(made, "llama", recipe, watcher)
        except KeyboardInterrupt:
            assert steps < 10**9
        done.append(watcher.begun[0][1] // SAMPLE.tokens[:32].size)
    assert done == [0, 0, BLOCKS + 2 * 3, BLOCKS + 2 * 4]
    assert plan.recipe.overrides == whole.recipe.overrides


def test_the_choice_as_a_recipe_makes_the_same_file(made: Any, tmp_path: Path):
    """Without measuring again."""
    path = quantized(made, "llama", Recipe("q8_0", output=tmp_path / "x.gguf", bits=4))
    plan = planned(made, "llama", Recipe("q8_0", output=tmp_path / "x.gguf", bits=4))
    text = write_document(document_of([plan.recipe]), tmp_path)
    (tmp_path / "r.yaml").write_text(text)
    (again,) = options_of(read_document(tmp_path / "r.yaml"))
    watcher = Listening()
    other = quantized(made, "llama", replace(again, output=tmp_path / "y.gguf"), watcher)
    assert not any("measured" in note for note in watcher.notes)
    assert other.read_bytes() == path.read_bytes()


def test_what_is_said_of_a_tensor_holds(made: Any, tmp_path: Path):
    recipe = Recipe(
        "q8_0",
        output=tmp_path / "x.gguf",
        bits=4,
        types=("iq4_xs", "q3_k", "q5_k"),
        overrides=(("blk.1.ffn_down.weight", "q6_k"),),
        keep=("blk.0.attn_v.weight",),
    )
    path = quantized(made, "llama", recipe)
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}
    assert types["blk.1.ffn_down.weight"] == "Q6_K"
    assert types["blk.0.attn_v.weight"] in ("F32", "F16", "BF16")
    others = {name: type_ for name, type_ in types.items() if "norm" not in name}
    assert {*others.values()} <= {"IQ4_XS", "Q3_K", "Q5_K", "Q6_K", types["blk.0.attn_v.weight"]}


def test_fused_layers_of_engines_share_a_scheme(made: Any, tmp_path: Path):
    recipe = Recipe("w4a16", output=tmp_path / "out", group_size=32)
    sizes = [planned(made, "llama", replace(recipe, type=t)) for t in ("w4a16", "w8a16")]
    bits = sum(plan.bits_per_weight for plan in sizes) / 2
    plan = planned(made, "llama", replace(recipe, bits=bits))
    formats = {tensor.name.split("layers.")[-1]: tensor.format for tensor in plan.tensors}
    assert len({format_ for name, format_ in formats.items() if "proj" in name}) == 2
    for block in range(3):
        q, k, v = (formats[f"{block}.self_attn.{one}_proj.weight"] for one in "qkv")
        assert q == k == v
        assert formats[f"{block}.mlp.gate_proj.weight"] == formats[f"{block}.mlp.up_proj.weight"]
    assert 0.95 * bits < plan.bits_per_weight <= bits


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe("q8_0", bits=1.0), r"too small: these types take from \d+ to \d+"),
        (
            Recipe("q8_0", bits=3.0, overrides=(("blk.*.weight", "f16"),)),
            "what is said of single tensors takes from",
        ),
        (Recipe("w8a8", bits=8.0), "no meaning for w8a8"),
        (Recipe("w4a16", bits=8.0, types=("fp8",)), "fp8 has other inputs"),
    ],
)
def test_what_cannot_be(made: Any, recipe: Recipe, message: str, tmp_path: Path):
    with pytest.raises((PlanError, UsageError), match=message):
        planned(made, "llama", replace(recipe, output=tmp_path / "x"))


def test_more_room_than_there_is_use_for(made: Any, tmp_path: Path):
    watcher = Listening()
    recipe = Recipe("q8_0", output=tmp_path / "x.gguf", bits=30)
    plan = planned(made, "llama", recipe, watcher)
    assert any("room for the largest types" in note for note in watcher.notes)
    assert {t.format for t in plan.tensors} == {"Q8_0", "F32"}


def test_without_tokens_it_is_refused(tmp_path: Path):
    save_model("llama", tmp_path / "model", wide=True)
    recipe = Recipe("q8_0", output=tmp_path / "x.gguf", bits=4, vocabulary=False)
    with pytest.raises(PlanError, match="needs a calibration"):
        plan_outputs(open_checkpoint(str(tmp_path / "model")), [recipe], Run(1, Silent()))
