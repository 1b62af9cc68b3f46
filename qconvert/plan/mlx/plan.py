"""The plan of a directory for mlx-lm: every tensor with its bytes, and every small file, before a
weight is read.

    source + recipe + statistics -> Plan
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from qconvert.calibration.importance import Importance, match_importance
from qconvert.checkpoint import Checkpoint
from qconvert.checkpoint.dtypes import PLAIN
from qconvert.containers.target import Slot
from qconvert.errors import PlanError, UsageError
from qconvert.formats.safetensors.types import ScaleDtype
from qconvert.model.mlx.families import MlxFamily, mlx_family
from qconvert.model.mlx.weights import mlx_weights
from qconvert.model.open import Model, notice_quantized
from qconvert.model.weights import Weight
from qconvert.plan.algorithms import made_with, with_algorithm, without_algorithm
from qconvert.plan.blocks import Blocks
from qconvert.plan.changes import larger, rounded
from qconvert.plan.mlx.choices import Choice, choose, exceptions, storage_of
from qconvert.plan.mlx.config import config_json
from qconvert.plan.mlx.tensors import MlxWeight
from qconvert.plan.mlx.types import Storage
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.directory import directory_plan
from qconvert.plan.safetensors.notices import fallback_lines
from qconvert.plan.safetensors.plan import files_of, missing_tokenizer, model_dtype
from qconvert.plan.safetensors.statistics import statistics_digest
from qconvert.plan.statistics import NOTHING, Statistics
from qconvert.plan.types import Coding, Plan, TensorPlan

WRITTEN = (
    "Written by qconvert {version}: weights quantized as MLX has them, for mlx-lm and LM Studio."
)

USE = (
    ("console", '$ mlx_lm.generate --model DIR --prompt "Why is the sky blue?"'),
    ("console", "$ mlx_lm.server --model DIR"),
)
"""How it is run, for the model card."""

RANGES = ("minmax", "mse")
"""Estimators of ranges: MLX's own choice, and the search."""


def plan_mlx(model: Model, recipe: Recipe, statistics: Statistics = NOTHING) -> Plan:
    """Decide what the directory will hold.

    Raises:
        UsageError: an option does not fit, or a pattern is not well formed.
        UnsupportedError: mlx-lm does not run such a model, or not as transformers does.
        PlanError: a pattern matches nothing, or statistics are of another model or shape.
        CheckpointError: metadata or small files cannot be read or trusted.
    """
    checkpoint, importance, warnings = model.checkpoint, statistics.importance, list[str]()
    if importance:
        importance, warnings = match_importance(importance, model.shapes)
    family = mlx_family(model.config)
    choices = choose(mlx_weights(model, family), recipe, family)
    if all(choice.storage is None for choice in choices):
        raise PlanError("nothing would be quantized", "leave out what keeps all weights")
    dtype = model_dtype(model)
    searched = is_searched(recipe, importance)
    config = config_json(model, family, choices, dtype)
    maker = _Maker(checkpoint, dtype, searched, importance)
    tensors = tuple(with_algorithm(maker.tensor(choice), statistics, model) for choice in choices)
    notices = (
        *model.description.notices,
        *notice_quantized({info.dtype for info in checkpoint.tensors.values()} - {*PLAIN}),
        *missing_tokenizer(model),
        *fallback_lines(
            (choice.weight.name, choice.reason, _words(choice.storage))
            for choice in choices
            if choice.reason
        ),
        *warnings,
        *statistics.notices,
        *without_algorithm(tensors, statistics),
        *_window(model, family),
        *rounded([tensor for tensor in tensors if isinstance(tensor.coding, Blocks)]),
        *larger(tensors, checkpoint.tensors),
    )
    made_by = {
        "format": "mlx",
        "qconvert.source.fingerprint": model.fingerprint,
        "qconvert.recipe": _spelled(recipe, searched),
        **recipe.budget,
        **statistics_digest(importance, statistics),
        **made_with(tensors, statistics.sample),
    }

    def files(plan: Plan) -> dict[str, bytes]:
        about = {"written": WRITTEN, "library": "mlx"}
        return files_of(model, config, plan, dtype, importance, use=USE, **about)

    plan = directory_plan(checkpoint, recipe, tensors, made_by, notices, files)
    return replace(plan, sample=statistics.sample)


def is_searched(recipe: Recipe, importance: Importance | None) -> bool:
    """Whether scales are looked for: where the user says so, else where something is known of the
    inputs. Without, weights become what mlx-lm's converter makes of them.

    Raises:
        UsageError: another estimator.
    """
    if recipe.weight_range is None:
        return importance is not None
    if recipe.weight_range not in RANGES:
        raise UsageError(
            f"weight-range {recipe.weight_range} has no meaning for {recipe.type}",
            f"choose {' or '.join(RANGES)}",
        )
    return recipe.weight_range == "mse"


def _spelled(recipe: Recipe, searched: bool) -> str:
    """All that the bytes of the weights depend on, as JSON for the header of the files."""
    said = {
        "mlx": asdict(storage_of(recipe)),
        "overrides": [(name, one and asdict(one)) for name, one in exceptions(recipe)],
        "keep": recipe.keep,
        "searched": searched,
        "allow_nan": recipe.allow_nan,
    }
    return json.dumps(said, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class _Maker:
    """What all tensors have in common."""

    checkpoint: Checkpoint
    dtype: ScaleDtype
    searched: bool
    importance: Importance | None

    def tensor(self, choice: Choice) -> TensorPlan:
        weight, storage = choice.weight, choice.storage
        map_, words = weight.map, storage.words if storage else self.dtype
        coding: Coding
        if storage is None:
            size = map_.elements * PLAIN[self.dtype]
            slots: tuple[Slot, ...] = (Slot(map_.name, map_.shape, self.dtype, size),)
            coding = Blocks(map_.name, self.dtype, max(map_.rows, 1), self._is_moved(weight))
        else:
            seen = self.importance
            square = _of_matrices(weight, seen.values if seen else {})
            means = _of_matrices(weight, seen.means if seen else {})
            coding = MlxWeight(weight, storage, self.dtype, self.searched, square, means)
            slots = coding.slots
        wanted = choice.wanted.words if choice.wanted else words
        name, source, why = weight.name, weight.dtype, choice.reason
        return TensorPlan(name, map_.shape, source, map_, slots, coding, words, wanted, why)

    def _is_moved(self, weight: Weight) -> bool:
        """Whether its bytes stay as they are. All floats get the model's dtype: MLX computes in the
        widest that meet."""
        info = self.checkpoint.tensors[weight.map.parts[0].source]
        is_same = weight.dtype == self.dtype and info.is_plain
        return is_same and not weight.map.is_computed


def _of_matrices(weight: Weight, known: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """What is known of a weight's columns, float32 [matrices or 1, columns]."""
    found = known.get(weight.gguf)
    if found is None:
        return None
    return np.ascontiguousarray(found.reshape(-1, found.shape[-1]), np.float32)


def _words(storage: Storage | None) -> str:
    return storage.words if storage else "not quantized"


def _window(model: Model, family: MlxFamily) -> Iterator[str]:
    """What mlx-lm does not heed."""
    settings = model.settings
    window, context = settings.get("sliding_window"), settings.get("max_position_embeddings")
    if not isinstance(window, int) or not isinstance(context, int) or window >= context:
        return
    chosen = settings.get("use_sliding_window", not model.family.window_by_choice)
    if chosen and not family.heeds_window(settings):
        yield f"the model's window of {window} tokens is not kept: mlx-lm attends to all of them"
