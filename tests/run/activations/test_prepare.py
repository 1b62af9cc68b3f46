"""Smoothing leaves a model's function as it is, and stored ranges are made where they can be."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import FAMILIES, random_tokens, save_model, torch_hidden, torch_logits
from observed_inputs import calibrate, massive, observed
from plain_models import ALWAYS_TIED, PLAIN, SMALL

from qconvert.algorithms.smooth import ALPHAS
from qconvert.calibration.types import Calibration
from qconvert.checkpoint import open_checkpoint
from qconvert.containers.folder import work_folder
from qconvert.errors import PlanError, UsageError
from qconvert.formats.safetensors.types import ActivationFormat, Estimator
from qconvert.forward.walk import Place
from qconvert.machine.watcher import Silent
from qconvert.model.assemble import assemble
from qconvert.model.open import Model, open_model
from qconvert.plan.safetensors.statistics import factors_of
from qconvert.plan.statistics import Smoothing
from qconvert.run.activations.joints import joints
from qconvert.run.activations.prepare import Activations, prepare_activations

DYNAMIC = ActivationFormat("int", 8, "token", True)
STATIC = ActivationFormat("int", 8, "tensor", False)

FOLDABLE = [name for name in FAMILIES if name != "bert"]


def smoothed_model(directory: Path, source: Model, smoothing: Mapping[str, Smoothing]) -> Any:
    """The model that is read from a checkpoint whose tensors have been multiplied."""
    import transformers
    from safetensors.numpy import load_file, save_file

    path = directory / "model.safetensors"
    tensors = load_file(path)
    touched = set()
    for weight in source.weights:
        factors = factors_of(weight, smoothing)
        if factors is None:
            continue
        touched.add(weight.gguf)
        rows = assemble(weight.matrix_map, source.checkpoint.tensors, 0, weight.matrix_map.rows)
        made = factors.apply(rows, 0)
        made = made.T if weight.conv1d else made.reshape(weight.map.shape)
        tensors[weight.name] = np.ascontiguousarray(made)
    assert touched == set(smoothing)
    save_file(tensors, path, {"format": "pt"})
    name = source.config["architectures"][0]
    model = getattr(transformers, name).from_pretrained(directory, dtype="float32")
    model.set_attn_implementation("eager")
    return model.eval()


def outputs(model, family):
    run = torch_hidden if family == "bert" else torch_logits
    return run(model, random_tokens(48, seed=9))


UNFOLDED = ("falcon_7b", "falcon_40b")
"""Which norm goes into what depends on the model's configuration, so that nothing is folded."""


@pytest.mark.parametrize("family", [*FOLDABLE, *(one for one in SMALL if one not in UNFOLDED)])
def test_a_smoothed_model_computes_what_it_did(family, tmp_path):
    tied = family in ALWAYS_TIED
    model = save_model(PLAIN.get(family, family), tmp_path / "model", tied=tied)
    source, calibration = calibrate(tmp_path / "model", tmp_path)
    expected = outputs(model, family)
    made = prepare_activations(
        source,
        calibration,
        DYNAMIC,
        smooth=0.7,
        estimator=Estimator(),
        place=Place(tmp_path, "cpu", "f32"),
        work=tmp_path / "out",
        watcher=Silent(),
    )
    assert made.smoothing
    assert set(made.alphas.values()) == {0.7}
    found = outputs(smoothed_model(tmp_path / "model", source, made.smoothing), family)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@dataclass(frozen=True)
class Case:
    """A model with its calibration, and a folder for what is computed."""

    source: Model
    calibration: Calibration
    folder: Path

    def prepare(self, form: ActivationFormat, threads: int = 1, **options: Any) -> Activations:
        """Nothing is kept of it."""
        place = Place(self.folder, "cpu", "f32", threads)
        options = {"estimator": Estimator("minmax"), "watcher": Silent()} | options
        work = options.pop("work", None) or self.folder / "out"
        made = prepare_activations(
            self.source, self.calibration, form, place=place, work=work, **options
        )
        if work == self.folder / "out":
            shutil.rmtree(work_folder(work), ignore_errors=True)
        return made


@pytest.fixture(scope="module", params=["qwen3", "mixtral"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    save_model(request.param, folder / "model", num_hidden_layers=2)
    return Case(*calibrate(folder / "model", folder), folder)


def test_inputs_that_are_rounded_token_by_token_ask_for_nothing(case: Case) -> None:
    assert case.prepare(DYNAMIC) == Activations()


def test_every_linear_weight_has_a_range(case: Case) -> None:
    made = case.prepare(STATIC)
    linear = {w.gguf for w in case.source.weights if w.quantizable and w.block >= 0}
    assert linear <= set(made.ranges)
    assert not made.massive
    for name, range_ in made.ranges.items():
        statistics = case.calibration.by_weight[name]
        seen = statistics.count > 0
        largest = statistics.absmax.max(axis=1)
        expected = np.where(seen, largest, largest.max()) / 127.5
        assert range_ is not None
        assert range_.zero_point is None
        np.testing.assert_allclose(range_.scale, expected, rtol=1e-6)
    assert made.ranges["blk.0.attn_q.weight"] is made.ranges["blk.0.attn_v.weight"]


def test_ranges_without_symmetry_have_zero_points(case: Case) -> None:
    form = replace(STATIC, symmetric=False)
    made = case.prepare(form)
    for name, range_ in made.ranges.items():
        low = np.minimum(case.calibration.by_weight[name].minimum.min(axis=1), 0)
        assert range_ is not None
        assert range_.zero_point is not None
        reached = (-128.0 - range_.zero_point) * range_.scale
        np.testing.assert_allclose(reached, low, atol=range_.scale.max())
    narrower = case.prepare(form, estimator=Estimator("mse"))
    for name, range_ in made.ranges.items():
        found = narrower.ranges[name]
        assert found is None or (found.scale <= range_.scale * 1.0001).all()


def with_massive_input(case: Case, name: str) -> Case:
    """The same, but for one input that is known to be massive."""
    own = case.calibration.inputs[name]
    x = massive(1024, own.columns)
    inputs = {**case.calibration.inputs, name: replace(observed(x), weights=own.weights)}
    return replace(case, calibration=replace(case.calibration, inputs=inputs))


def test_massive_inputs_get_a_range_for_each_token(case: Case) -> None:
    name = "blk.1.attn_output.weight"
    changed = with_massive_input(case, name)
    made = changed.prepare(STATIC)
    assert made.ranges[name] is None
    assert set(made.massive) == {name}
    assert made.massive[name].static > 10 * made.massive[name].token
    assert not made.notices
    strict = changed.prepare(STATIC, strict_static=True)
    assert strict.ranges[name] is not None
    assert any(name in notice and "massive" in notice for notice in strict.notices)


def test_ranges_of_smoothed_inputs_are_those_of_the_smoothed_model(case: Case) -> None:
    made = case.prepare(STATIC, smooth=0.5)
    for joint in joints(case.source, case.calibration):
        smooth = joint.factors(0.5)
        statistics = case.calibration.by_weight[joint.name]
        largest = (statistics.absmax / smooth).max(axis=1)
        expected = np.where(statistics.count > 0, largest, largest.max()) / 127.5
        found = made.ranges[joint.name]
        assert found is not None
        seen = statistics.count > 0
        np.testing.assert_allclose(found.scale[seen], expected[seen], rtol=1e-4)
    plain = case.prepare(STATIC)
    assert made.ranges["blk.0.attn_output.weight"] == plain.ranges["blk.0.attn_output.weight"]


@pytest.mark.parametrize("form", [DYNAMIC, STATIC], ids=["dynamic", "static"])
def test_every_input_chooses_its_own_strength_whatever_the_threads(
    case: Case, form: ActivationFormat
) -> None:
    first = case.prepare(form, smooth="auto", estimator=Estimator("mse"))
    again = case.prepare(form, smooth="auto", estimator=Estimator("mse"), threads=2)
    assert set(first.alphas.values()) <= set(ALPHAS)
    assert len(set(first.alphas.values())) > 1
    assert first.alphas["blk.0.attn_q.weight"] == first.alphas["blk.0.attn_k.weight"]
    assert first.alphas == again.alphas
    assert list(first.smoothing) == list(again.smoothing)
    for name, smoothing in first.smoothing.items():
        np.testing.assert_equal(vars(smoothing), vars(again.smoothing[name]))


def test_what_cannot_be_smoothed_is_said(case: Case, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--smooth 2 is not from 0 to 1"):
        case.prepare(DYNAMIC, smooth=2.0)
    inputs = {k: v for k, v in case.calibration.inputs.items() if "attn_q" not in k}
    without = replace(case, calibration=replace(case.calibration, inputs=inputs))
    with pytest.raises(PlanError, match=r"no input of blk\.0\.attn_q\.weight"):
        without.prepare(DYNAMIC, smooth=0.5)
    save_model("bert", tmp_path)
    source = open_model(open_checkpoint(str(tmp_path)))
    with pytest.raises(PlanError, match="nothing in a bert can be smoothed"):
        replace(case, source=source).prepare(DYNAMIC, smooth=0.5)


class Stopping(Silent):
    """Ctrl-C behind so many blocks; knows how many an earlier run has done."""

    def __init__(self, blocks: int = 99) -> None:
        self.left, self.resumed = blocks, 0.0

    def begin(self, total: int, done: int) -> None:
        self.resumed = done / total

    def advance(self, weights: int, tensor: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def same(one: Activations, other: Activations) -> None:
    assert one.alphas == other.alphas
    for mine, theirs in ((one.smoothing, other.smoothing), (one.ranges, other.ranges)):
        assert list(mine) == list(theirs)
        for name, value in mine.items():
            other_value = theirs[name]
            np.testing.assert_equal(value and vars(value), other_value and vars(other_value))


@pytest.mark.parametrize("form", [DYNAMIC, STATIC], ids=["dynamic", "static"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_search_that_was_interrupted_is_taken_up(
    case: Case, form: ActivationFormat, blocks: int, tmp_path: Path
) -> None:
    options = {"smooth": "auto", "estimator": Estimator("mse"), "work": tmp_path / "out"}
    whole = case.prepare(form, **options | {"work": None})
    with pytest.raises(KeyboardInterrupt):
        case.prepare(form, **options, watcher=Stopping(blocks))
    second = Stopping()
    same(case.prepare(form, **options, watcher=second), whole)
    assert second.resumed == blocks / 2
    third = Stopping()
    same(case.prepare(form, **options, watcher=third), whole)
    assert third.resumed == 1
    assert not list(work_folder(tmp_path / "out").glob("states-*"))


@pytest.mark.parametrize("change", ["aim", "calibration", "damage"])
def test_another_search_begins_anew(case: Case, change: str, tmp_path: Path) -> None:
    options = {"smooth": "auto", "estimator": Estimator("mse")}
    case.prepare(STATIC, **options, work=tmp_path / "out")
    if change == "aim":
        options["estimator"] = Estimator("minmax")
    elif change == "calibration":
        case = with_massive_input(case, "blk.1.attn_q.weight")
    else:
        first = work_folder(tmp_path / "out") / "block-00000.safetensors"
        first.write_bytes(first.read_bytes()[:-1])
    second = Stopping()
    made = case.prepare(STATIC, **options, work=tmp_path / "out", watcher=second)
    assert second.resumed == 0
    same(made, case.prepare(STATIC, **options))
