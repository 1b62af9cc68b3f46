"""What is stored of inputs and caches, against what transformers and compressed-tensors see."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captures import run_capture
from common import random_tokens, save_model
from compressed_models import config_of, load_all, load_model, outputs, write_plan
from sampled_models import SAMPLE

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import PlanError, UsageError
from qconvert.machine.watcher import Silent
from qconvert.plan.recipe import Recipe
from qconvert.plan.types import Plan
from qconvert.run.quantize import plan_outputs
from qconvert.run.types import Run

KEYS, VALUES = "self_attn.k_scale", "self_attn.v_scale"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its calibration."""
    path = tmp_path_factory.mktemp("caches")
    save_model("qwen3", path / "model", wide=True, num_hidden_layers=2)
    run_capture(path / "model", path / "calib", sample=SAMPLE)
    return path


def plan(folder: Path, out: Path, type_: str, *, dry: bool = False, **options: Any) -> Plan:
    recipe = Recipe(type_, out, feedback=False, **options)
    run = Run(1, Silent(), "cpu", dry)
    return plan_outputs(open_checkpoint(str(folder / "model")), [recipe], run)[0]


def seen_by_transformers(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The largest inputs of linear layers, and the largest keys and values of the cache."""
    model = load_model(folder / "model", "bfloat16")
    inputs: dict[str, float] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _, args, name=name: inputs.update({name: float(args[0].abs().max())})
            )
    with torch.no_grad():
        made = model(torch.from_numpy(SAMPLE.tokens.astype(np.int64)), use_cache=True)
    caches = {}
    for number, layer in enumerate(made.past_key_values.layers):
        caches[f"model.layers.{number}.{KEYS}"] = float(layer.keys.abs().max())
        caches[f"model.layers.{number}.{VALUES}"] = float(layer.values.abs().max())
    return inputs, caches


def test_global_scales_of_inputs_and_scales_of_caches(folder: Path, tmp_path: Path) -> None:
    """In bfloat16 both, so within its rounding; and joined layers have one."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    out = tmp_path / "out"
    made = plan(folder, out, "nvfp4a4", calibration=folder / "calib", kv="fp8")
    write_plan(made, out)
    stored = load_all(out)
    inputs, caches = seen_by_transformers(folder)
    compared = 0
    for name, largest in inputs.items():
        if name == "lm_head":
            continue
        expected = generate_gparam(torch.tensor([-largest]), torch.tensor([largest]))
        found = stored[f"{name}.input_global_scale"]
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        assert abs(found / expected - 1) < 0.03, name
        compared += 1
    assert compared == 2 * 7
    for block in range(2):
        joined = [f"model.layers.{block}.self_attn.{one}_proj.input_global_scale" for one in "qkv"]
        assert len({float(stored[name]) for name in joined}) == 1
    args = QuantizationArgs(**config_of(made)["quantization_config"]["kv_cache_scheme"])
    for name, largest in caches.items():
        low, high = torch.tensor([-largest]), torch.tensor([largest])
        expected = calculate_qparams(low, high, args)[0]
        assert stored[name].shape == (1,)
        assert abs(stored[name].float() / expected - 1) < 0.03, name
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kv", ["fp8", "int8"])
def test_transformers_rounds_keys_and_values_by_them(kv: str, folder: Path, tmp_path: Path) -> None:
    """The logits move, as they do where a cache rounds itself by compressed-tensors' functions."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from transformers import DynamicCache

    made = plan(folder, tmp_path / "out", "w8a16", calibration=folder / "calib", kv=kv)
    write_plan(made, tmp_path / "out")
    plain = plan(folder, tmp_path / "plain", "w8a16", calibration=folder / "calib")
    write_plan(plain, tmp_path / "plain")
    stored = load_all(tmp_path / "out")
    args = QuantizationArgs(**config_of(made)["quantization_config"]["kv_cache_scheme"])
    zero = torch.zeros(1)

    class Rounded(DynamicCache):
        def update(self, keys: Any, values: Any, number: int, *more: Any) -> tuple[Any, Any]:
            pair = ((keys, KEYS), (values, VALUES))
            scales = [stored[f"model.layers.{number}.{name}"] for _, name in pair]
            keys, values = (
                fake_quantize(one, scale, zero, args)
                for (one, _), scale in zip(pair, scales, strict=True)
            )
            return super().update(keys, values, number, *more)

    tokens = random_tokens()
    reference = load_model(tmp_path / "plain")
    original = outputs(reference, tokens)
    with torch.no_grad():
        expected = reference(torch.tensor([tokens]), past_key_values=Rounded()).logits[0].numpy()
    computed = outputs(load_model(tmp_path / "out"), tokens)
    assert np.abs(computed - expected).max() <= 1e-5
    assert np.abs(computed - original).max() > 1e-4


def test_an_interrupted_run_does_not_look_again(folder: Path, tmp_path: Path) -> None:
    first = plan(folder, tmp_path / "out", "w8a16", calibration=folder / "calib", kv="fp8")
    (kept,) = tmp_path.glob(".*")
    when = (kept / "caches.json").stat().st_mtime_ns
    again = plan(folder, tmp_path / "out", "w8a16", calibration=folder / "calib", kv="fp8")
    assert (kept / "caches.json").stat().st_mtime_ns == when
    assert again.target.metadata == first.target.metadata


def test_the_bytes_are_known_before_anybody_looks(folder: Path, tmp_path: Path) -> None:
    options = {"calibration": folder / "calib", "kv": "fp8"}
    dry = plan(folder, tmp_path / "out", "nvfp4a4", dry=True, **options)
    assert not list(tmp_path.iterdir())
    made = plan(folder, tmp_path / "out", "nvfp4a4", **options)
    assert dry.nbytes == made.nbytes
    assert [slot.name for slot in dry.target.slots] == [slot.name for slot in made.target.slots]


@pytest.mark.parametrize(
    ("type_", "options", "words"),
    [
        ("nvfp4a4", {}, "stores a scale of each layer's input"),
        ("w4a16", {"kv": "fp8"}, "--kv needs a calibration"),
        ("w4a16", {"overrides": (("*.o_proj.weight", "nvfp4a4"),)}, "nvfp4a4 stores"),
    ],
)
def test_what_needs_a_calibration_says_so(
    type_: str, options: dict[str, Any], words: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=words):
        plan(folder, tmp_path / "out", type_, **options)


def test_smoothing_would_change_what_is_stored(folder: Path, tmp_path: Path) -> None:
    overrides = (("*.0.mlp.down_proj.weight", "nvfp4a4"),)
    options = {"calibration": folder / "calib", "smooth": 0.5, "overrides": overrides}
    with pytest.raises(UsageError, match="nvfp4a4 stores"):
        plan(folder, tmp_path / "out", "w8a8", dry=True, **options)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_models_without_such_a_cache_are_refused(family: str, tmp_path: Path) -> None:
    save_model(family, tmp_path / "model")
    with pytest.raises(PlanError, match="no cache of keys and values"):
        plan(tmp_path, tmp_path / "out", "w8a16", kv="fp8")
