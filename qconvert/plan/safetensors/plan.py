"""The plan of a quantized safetensors directory: every tensor with its bytes, and every small
file, before a weight is read.

    source + recipe + statistics -> Plan
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qconvert.calibration.importance import Importance, match_importance
from qconvert.checkpoint import Checkpoint
from qconvert.checkpoint.dtypes import PLAIN
from qconvert.containers.model_card import model_card
from qconvert.containers.target import Slot
from qconvert.errors import PlanError
from qconvert.formats.safetensors.layouts import format_of
from qconvert.formats.safetensors.types import Estimator, ScaleDtype
from qconvert.model.directory_files import directory_files, special_ids
from qconvert.model.general import general_metadata
from qconvert.model.open import NO_TOKENIZER, Model, notice_quantized
from qconvert.model.tokenizers.export import json_bytes
from qconvert.model.tokenizers.stored import read_stored
from qconvert.model.tokenizers.tokenizer import has_tokenizer
from qconvert.model.types import TensorMap
from qconvert.model.weights import Weight
from qconvert.plan.algorithms import made_with, with_algorithm, without_algorithm
from qconvert.plan.blocks import Blocks, Factors
from qconvert.plan.changes import larger, rounded
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors import clustered
from qconvert.plan.safetensors.caches import cache_tensors
from qconvert.plan.safetensors.choices import Choice, choose, peak_key
from qconvert.plan.safetensors.config import DTYPES, config_json, is_plain, schemes
from qconvert.plan.safetensors.directory import directory_plan
from qconvert.plan.safetensors.files import small_files
from qconvert.plan.safetensors.notices import NO_POOLER, described, fallback_lines, loads_in, uses
from qconvert.plan.safetensors.recipe import spelled, weight_estimator
from qconvert.plan.safetensors.schemes import Scheme
from qconvert.plan.safetensors.statistics import (
    column_importance,
    factors_of,
    local_input,
    static_input,
    statistics_digest,
)
from qconvert.plan.safetensors.tensors import LocalInput, Quantized, StaticInput
from qconvert.plan.statistics import NOTHING, Statistics
from qconvert.plan.types import Coding, Plan, TensorPlan

WRITTEN = (
    "Written by qconvert {version}: weights quantized in the layouts of compressed-tensors, for "
    "transformers and serving engines (vLLM, SGLang)."
)

WRITTEN_PLAIN = (
    "Written by qconvert {version}: a plain checkpoint whose weights are clustered. Each tensor, "
    "or each group of its rows, has few distinct values: it compresses to little more than their "
    "numbers, and engines that look weights up in tables can take them as they are."
)

FLOATS: tuple[ScaleDtype, ...] = ("F32", "F16", "BF16")


WRITTEN_OLDER = (
    "Written by qconvert {{version}}: weights quantized in the layout of {layout}, for serving "
    "engines (vLLM, SGLang), ExLlama and transformers."
)

OLDER_NAMES = {"gptq": "GPTQ", "awq": "AWQ"}


def plan_directory(model: Model, recipe: Recipe, statistics: Statistics = NOTHING) -> Plan:
    """Decide what the directory will hold.

    Raises:
        UnsupportedError: an override names no scheme.
        UsageError: an option does not fit, or a pattern is not well formed.
        PlanError: a pattern matches nothing, an exception cannot be made, or statistics are missing
            or of another model or shape.
        CheckpointError: metadata or small files cannot be read or trusted.
    """
    checkpoint, importance, warnings = model.checkpoint, statistics.importance, list[str]()
    if importance:
        importance, warnings = match_importance(importance, model.shapes)
    choices = tuple(choose(model, recipe, statistics.ranges))
    if not schemes(choices):
        raise PlanError("nothing would be quantized", "leave out what keeps all weights")
    own = model_dtype(model)
    is_fp4 = any("fp4" in scheme.weights.layout for scheme in schemes(choices))
    dtype = "BF16" if is_fp4 else own  # what float4 unpacks to, and nothing else
    # A GGUF file has norms and routers in F32, whatever the model has them in.
    converted = dtype != own or checkpoint.container == "gguf"
    estimator = weight_estimator(recipe) or Estimator()
    values = importance.values if importance else None
    maker = _Maker(checkpoint, estimator, statistics, values, dtype, converted)
    tensors = tuple(
        with_algorithm(tensor, statistics, model)
        for tensor in _with_peers(choices, tuple(map(maker.tensor, choices)))
    )
    if recipe.kv is not None:
        tensors = (*tensors, *cache_tensors(model, recipe.kv, statistics.caches, dtype))
    notices = (
        *model.description.notices,
        *_missing_pooler(model),
        *notice_quantized({info.dtype for info in checkpoint.tensors.values()} - {*PLAIN}),
        *missing_tokenizer(model),
        *fallback_lines(
            (choice.weight.name, reason, described(choice.scheme))
            for choice in choices
            for reason in choice.reasons
        ),
        *warnings,
        *statistics.notices,
        *without_algorithm(tensors, statistics),
        *loads_in(model, choices, recipe.kv),
        *rounded([tensor for tensor in tensors if isinstance(tensor.coding, Blocks)]),
        *larger(tensors, checkpoint.tensors),
    )
    layout = OLDER_NAMES.get(schemes(choices)[0].weights.layout)
    written = WRITTEN_OLDER.format(layout=layout) if layout else WRITTEN
    written = WRITTEN_PLAIN if is_plain(choices) else written
    made_by = {
        "qconvert.source.fingerprint": model.fingerprint,
        "qconvert.recipe": spelled(recipe),
        **recipe.budget,
        **statistics_digest(importance, statistics),
        **made_with(tensors, statistics.sample),
    }

    def files(plan: Plan) -> dict[str, bytes]:
        config = config_json(model, choices, dtype, recipe.kv)
        use = uses(model, choices)
        return files_of(model, config, plan, dtype, importance, written=written, use=use)

    plan = directory_plan(checkpoint, recipe, tensors, made_by, notices, files)
    return replace(plan, sample=statistics.sample)


def model_dtype(model: Model) -> ScaleDtype:
    """The dtype of the model: as config.json says, else that of most weights. Where these are
    quantized, BF16: it has 16 bits as nearly all models have, and holds what F16 does not."""
    known: dict[str, ScaleDtype] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    inner = model.config.get("text_config")
    for settings in (model.config, inner if isinstance(inner, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            if isinstance(settings.get(key), str) and settings[key] in known:
                return known[settings[key]]
    plain: dict[str, ScaleDtype] = {"F64": "F32", "F32": "F32", "F16": "F16"}
    sizes: Counter[ScaleDtype] = Counter()
    for weight in model.weights:
        sizes[plain.get(weight.dtype, "BF16")] += weight.map.elements
    return sizes.most_common(1)[0][0]


@dataclass(frozen=True)
class _Maker:
    """What all tensors have in common.

    Attributes:
        importance: by GGUF name.
        converted: kept floats get the dtype of the model, whatever they are stored in.
    """

    checkpoint: Checkpoint
    estimator: Estimator
    statistics: Statistics
    importance: Mapping[str, np.ndarray] | None
    dtype: ScaleDtype
    converted: bool

    def tensor(self, choice: Choice) -> TensorPlan:
        weight, scheme = choice.weight, choice.scheme
        factors = factors_of(weight, self.statistics.smoothing)
        reason = "; ".join(choice.reasons)
        if scheme is None:
            dtype, moved = self._kept(weight, factors)
            map_ = weight.map
            slots: tuple[Slot, ...] = (_whole(map_, dtype),)
            coding: Coding = Blocks(weight.name, dtype, max(map_.rows, 1), moved, factors=factors)
            words = dtype
        else:
            map_, words = weight.matrix_map, described(scheme)
            importance = column_importance(weight, self.importance, factors)
            inputs = self._input(choice)
            kind = self._number(weight, scheme)
            coding = Quantized(weight, scheme, kind, self.estimator, importance, factors, inputs)
            slots = coding.slots
        wanted = described(choice.wanted) if choice.wanted else slots[0].dtype
        return TensorPlan(
            weight.name, weight.map.shape, weight.dtype, map_, slots, coding, words, wanted, reason
        )

    def _number(self, weight: Weight, scheme: Scheme) -> ScaleDtype:
        """The dtype of scales, or of clustered weights."""
        if scheme.is_plain:
            own = None if self.converted else next((k for k in FLOATS if k == weight.dtype), None)
            return own or self.dtype
        # Who reads GPTQ's and AWQ's layouts has scales of 16 bits alone.
        return "F16" if scheme.is_older and self.dtype == "F32" else self.dtype

    def _kept(self, weight: Weight, factors: Factors | None) -> tuple[str, bool]:
        """The dtype of a weight that is not quantized, and whether its bytes stay as they are."""
        dtype = weight.dtype
        if not self._has_plain_bytes(weight) or (dtype in FLOATS and self.converted):
            dtype = self.dtype
        is_stored = factors is None and not weight.map.is_computed
        return dtype, dtype == weight.dtype and is_stored

    def _has_plain_bytes(self, weight: Weight) -> bool:
        """Whether what is stored can be written again; not F64, float8 and blocks."""
        info = self.checkpoint.tensors[weight.map.parts[0].source]
        is_narrow = weight.dtype in FLOATS or weight.dtype[0] in "IUB"
        return weight.dtype in PLAIN and is_narrow and info.is_plain

    def _input(self, choice: Choice) -> StaticInput | LocalInput | None:
        ranges, peaks = self.statistics.ranges, self.statistics.peaks
        if choice.scheme is not None and choice.scheme.is_local:
            return LocalInput(None) if peaks is None else local_input(choice, peaks)
        if choice.scheme is None or not choice.scheme.is_static:
            return None
        if ranges is None:  # the bytes are known all the same
            symmetric = choice.scheme.inputs is None or choice.scheme.inputs.symmetric
            return StaticInput(None, None if symmetric else 0)
        return static_input(choice, ranges[choice.weight.gguf])


def _whole(map_: TensorMap, dtype: str) -> Slot:
    return Slot(map_.name, map_.shape, dtype, map_.elements * PLAIN[dtype])


def _with_peers(choices: Sequence[Choice], tensors: Sequence[TensorPlan]) -> tuple[TensorPlan, ...]:
    """Tensors that draw their scale from the largest weight know all those it is over."""
    groups: dict[tuple[str, ...], list[TensorPlan]] = {}
    keys = [
        peak_key(choice.weight)
        if choice.scheme and format_of(choice.scheme.weights).needs_peak
        else None
        for choice in choices
    ]
    for key, tensor in zip(keys, tensors, strict=True):
        if key:
            groups.setdefault(key, []).append(tensor)
    return tuple(
        replace(tensor, peers=groups[key]) if key else tensor
        for key, tensor in zip(keys, tensors, strict=True)
    )


def _missing_pooler(model: Model) -> list[str]:
    is_lost = model.checkpoint.container == "gguf" and model.family.unstored
    return [NO_POOLER] if is_lost else []


def missing_tokenizer(model: Model) -> list[str]:
    """What is to be said where the source has none."""
    is_file = model.checkpoint.container == "gguf"
    found = model.has_vocabulary if is_file else has_tokenizer(model.checkpoint.path)
    return [] if found else [NO_TOKENIZER]


def files_of(
    model: Model,
    config: Mapping[str, Any],
    plan: Plan,
    dtype: ScaleDtype,
    importance: Importance | None,
    *,
    written: str = WRITTEN,
    library: str = "transformers",
    use: Sequence[tuple[str, str]] = (),
) -> dict[str, bytes]:
    """All files but the weights.

    Args:
        config: config.json.
        dtype: of the numbers that are not quantized.
        written, library, use: of the model card: what made it, what loads it, and how.
    """
    checkpoint, family = model.checkpoint, model.family
    facts = {
        "Source": checkpoint.source,
        "Fingerprint": model.fingerprint,
        "Class": model.config["architectures"][0],
        "Parameters": f"{plan.parameters:,}",
        "Bytes of weights": f"{plan.nbytes:,}",
        "Weights": ", ".join(f"{count} {name}" for name, count in plan.formats.items()),
        "Other numbers": DTYPES[dtype],
        **clustered.facts(plan),
        **({"Calibration": importance.path.name} if importance else {}),
    }
    if checkpoint.container == "gguf":
        stored = read_stored(checkpoint.metadata, model.config["vocab_size"])
        config = {**config, **special_ids(stored, model.config)}
        files = directory_files(checkpoint.metadata, config, family.name, stored)
        metadata = checkpoint.metadata
    else:
        files = {**small_files(checkpoint.path), "config.json": json_bytes(config)}
        maps = [weight.map for weight in model.weights]
        metadata = general_metadata(checkpoint.path, checkpoint.source, family.name, maps)
    base = checkpoint.source.partition("@")[0].partition(":")[0]
    task = "feature-extraction" if family.encoder else "text-generation"
    words = {"written": written, "base": base, "library": library}
    card = model_card(metadata, facts, plan.notices, task, use=use, **words)
    return {**files, "README.md": card.encode()}
