"""Quantized directories in tests: write one, load it as its users do, and compute what it should
compute from the original model.

The reference is the original model in transformers, with its weights replaced by what our own
formats read from the file, and its inputs rounded by the functions of compressed-tensors.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint
from qconvert.containers.directory import MAX_SHARD_SIZE
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.choices import Choice, choose
from qconvert.plan.safetensors.tensors import Quantized
from qconvert.plan.statistics import NOTHING, Statistics
from qconvert.plan.types import Plan
from qconvert.run.outputs import write_outputs

VIEWS = {torch.bfloat16: (torch.int16, np.uint16), torch.float8_e4m3fn: (torch.uint8, np.uint8)}

SCHEMES: dict[str, dict[str, Any]] = {
    "w8a8": {},
    "w8a8 asymmetric": {"asymmetric": True},
    "w8a16": {},
    "w8a16 groups": {"group_size": 32},
    "w7a16": {},
    "w6a16": {},
    "w5a16": {},
    "w4a16": {},
    "w4a16 channel": {"group_size": "channel"},
    "w3a16": {},
    "w2a16": {},
    "fp8": {},
    "fp8 tensor": {"strategy": "tensor"},
    "fp8 block": {"strategy": "block"},
    "nvfp4a16": {},
    "nvfp4a4": {},
    "mxfp4a16": {},
    "mxfp4a4": {},
    "w4a8": {},
    "w4afp8": {},
}
"""What is written in every way that differs, with its options."""


def plan_model(source: Path, type_: str, statistics: Statistics = NOTHING, **options: Any) -> Plan:
    model = open_model(open_checkpoint(str(source)))
    return make_plan(model, Recipe(type_, **options), statistics)


def choices_of(plan: Plan, statistics: Statistics = NOTHING) -> list[Choice]:
    return choose(open_model(plan.checkpoint), plan.recipe, statistics.ranges)


def write_plan(plan: Plan, path: Path, *, threads: int = 2, shard: int = MAX_SHARD_SIZE) -> None:
    target = replace(plan.target, path=path, max_shard_size=shard)
    write_outputs([replace(plan, target=target)], threads, Silent())


def quantize_model(
    source: Path, path: Path, type_: str, statistics: Statistics = NOTHING, **options: Any
) -> Plan:
    if statistics is NOTHING and type_ == "nvfp4a4":
        statistics = Statistics(peaks=plain_peaks(source))
    plan = plan_model(source, type_, statistics, **options)
    write_plan(plan, path)
    return plan


def plain_peaks(source: Path) -> dict[str, np.ndarray]:
    """For inputs that nobody has seen: some are larger than that."""
    model = open_model(open_checkpoint(str(source)))
    return {weight.gguf: np.array([2.5], np.float32) for weight in model.weights}


def load_model(path: Path, dtype: str = "float32", **options: Any) -> Any:
    """By the class that config.json names; nothing may be missing or left over."""
    transformers.logging.set_verbosity_error()
    config = json.loads((path / "config.json").read_text())
    model, report = getattr(transformers, config["architectures"][0]).from_pretrained(
        path, dtype=dtype, attn_implementation="eager", output_loading_info=True, **options
    )
    missing = {name for name in report["missing_keys"] if "pooler" not in name}
    assert not missing, missing
    assert not report["unexpected_keys"], report["unexpected_keys"]
    assert not report["mismatched_keys"], report["mismatched_keys"]
    return model.eval()


def stored_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a directory; of what NumPy does not know the bits."""
    arrays = {}
    for file in sorted(path.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            bits, kind = VIEWS.get(tensor.dtype, (None, None))
            array = tensor.numpy() if bits is None else tensor.view(bits).numpy().view(kind)
            arrays[name] = array
    return arrays


def reference_model(plan: Plan, path: Path, dtype: str = "float32") -> Any:
    """The original model with the file's weights, and inputs rounded as the plan says.

    Args:
        path: the quantized directory; the reference is written beside it.
    """
    arrays = stored_arrays(path)
    weights = load_all(path)
    for tensor in quantized(plan):
        stem = tensor.weight.name.removesuffix("weight")
        parts = {part.suffix: arrays[stem + part.suffix] for part in tensor.parts}
        if tensor.weight.conv1d and "weight" in parts:
            parts["weight"] = np.ascontiguousarray(parts["weight"].T)
        for suffix in parts:
            del weights[stem + suffix]
        values = torch.from_numpy(tensor.format.dequantize(tuple(parts.values())))
        weights[tensor.weight.name] = values.T.contiguous() if tensor.weight.conv1d else values
    folder = path.with_name(path.name + "-reference")
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = config_of(plan)
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(folder, dtype)
    round_inputs(model, plan, arrays)
    return model


def config_of(plan: Plan) -> dict[str, Any]:
    return json.loads(plan.target.files["config.json"])


def load_all(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= load_file(file)
    return found


def quantized(plan: Plan) -> Iterable[Quantized]:
    codings = (tensor.coding for tensor in plan.tensors)
    return (coding for coding in codings if isinstance(coding, Quantized))


def round_inputs(model: Any, plan: Plan, arrays: Mapping[str, np.ndarray]) -> None:
    """Hooks before linear layers, after the functions of compressed-tensors."""
    from qconvert.plan.safetensors.config import input_args

    modules = dict(model.named_modules())
    for tensor in quantized(plan):
        if tensor.scheme.inputs is None or tensor.weight.expert:
            continue  # experts are fused, and run as if nothing rounded their inputs
        stem = tensor.weight.name.removesuffix(".weight")
        inner = stem.replace("language_model.model.", "model.language_model.")
        module = modules.get(stem) or modules.get(inner) or modules[stem.removeprefix("model.")]
        stored = {
            name: torch.from_numpy(np.array(arrays[f"{stem}.{name}"]))
            for name in ("input_scale", "input_zero_point", "input_global_scale")
            if f"{stem}.{name}" in arrays
        }
        module.register_forward_pre_hook(_rounding(input_args(tensor.scheme), stored))


def _rounding(arguments: dict[str, Any], stored: Mapping[str, torch.Tensor]) -> Any:
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    args = QuantizationArgs(**arguments)

    def before(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x = inputs[0]
        whole = stored.get("input_global_scale")
        if args.dynamic:
            scale, zero = compute_dynamic_scales_and_zp(x, args, module, whole)
        else:
            scale, zero = stored["input_scale"], stored.get("input_zero_point")
        return (fake_quantize(x, scale, zero, args, global_scale=whole),)

    return before


def outputs(model: Any, tokens: list[int]) -> np.ndarray:
    """Logits, or of an encoder the last hidden states: float32 [tokens, width]."""
    with torch.no_grad():
        made = model(torch.tensor([tokens]))
    values = made.logits if hasattr(made, "logits") else made.last_hidden_state
    return values[0].float().numpy()


def headers(path: Path) -> dict[str, str]:
    """The metadata of the first safetensors file."""
    with safe_open(min(path.glob("*.safetensors")), "np") as file:
        return file.metadata()
