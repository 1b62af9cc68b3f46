"""PEFT's adapters: LoRA, with rslora and DoRA, merged into a checkpoint as its rows are read.

    adapter_config.json                      rank, alpha, and how they make a scale
    adapter_model.safetensors or .bin        base_model.model.MODULE.lora_A.weight     [rank, in]
                                             base_model.model.MODULE.lora_B.weight     [out, rank]
                                             ....lora_embedding_A, ....lora_embedding_B
                                             ....lora_magnitude_vector                 [out]
                                             base_model.model.NAME: a tensor saved whole

    merged weight = weight + scale * B A           scale = alpha / rank, of rslora / sqrt(rank)

Source: E. Hu et al., arXiv 2106.09685; D. Kalajdzievski, arXiv 2312.03732 (rslora); S. Liu et al.,
arXiv 2402.09353 (DoRA); the layout is peft's `save_pretrained`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qconvert.checkpoint.files import check_small_files, inside, read_json_object
from qconvert.checkpoint.foreign import ADAPTER, FUSE, UNGATHERED
from qconvert.checkpoint.pickles import read_pickle
from qconvert.checkpoint.safetensors import read_safetensors
from qconvert.checkpoint.types import Checkpoint, Delta, TensorInfo
from qconvert.errors import CheckpointError, PlanError, UnsupportedError, shorten

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
ROOT = "base_model.model."
PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)(?:\.weight)?"
)
REFUSED = {
    "layer_replication": "it repeats layers",
    "target_parameters": "it adapts parameters that are no linear layers",
    "lora_bias": "it has biases of its own",
    "alora_invocation_tokens": "it works behind some tokens only",
    "arrow_config": "it chooses among several",
}
"""Settings of adapters that are more than an addition to weights."""

PATIENCE = 1
"""Seconds that a stranger's pattern may take for the name of a module."""


@dataclass(frozen=True)
class Pair:
    """What is added to the weight of a module.

    Attributes:
        module: its name in the model.
        embedding: a table of rows for tokens, whose `down` is by token.
    """

    module: str
    down: TensorInfo
    up: TensorInfo
    scale: float
    magnitude: TensorInfo | None = None
    embedding: bool = False

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True)
class Adapter:
    """An adapter.

    Attributes:
        path: its directory.
        base: how it calls the model that it was trained for.
        pairs: what it adds to weights.
        whole: tensors that it has in the place of the model's, by their names there.
        alpha: as it says for all modules.
    """

    path: Path
    base: str
    pairs: tuple[Pair, ...]
    whole: Mapping[str, TensorInfo] = field(default_factory=dict)
    turned: bool = False
    alpha: float = 1.0


def read_adapter(path: Path) -> Adapter:
    """Read an adapter's headers.

    Raises:
        CheckpointError: there is none, or it cannot be trusted.
        UnsupportedError: it is more than LoRA, rslora and DoRA.
    """
    if not (path / ADAPTER).is_file():
        raise CheckpointError(
            f"{path} holds no {ADAPTER}", "name a directory as peft's save_pretrained writes it"
        )
    check_small_files(path)
    config = read_json_object(inside(path, ADAPTER, path))
    _check(path, config)
    tensors = _tensors(path)
    if empty := next((info for info in tensors.values() if not info.elements), None):
        raise CheckpointError(
            f"{path}: {empty.name} is empty (shape {list(empty.shape)})", UNGATHERED
        )
    parts: dict[str, dict[str, TensorInfo]] = {}
    whole: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        bare = name.removeprefix(ROOT)
        match = PART.fullmatch(bare)
        if match is None:
            whole[re.sub(r"\.(modules_to_save(\.\w+)?|base_layer)\.", ".", bare)] = info
        else:
            parts.setdefault(match["module"], {})[match["part"]] = info
    pairs = tuple(_pair(path, module, own, config) for module, own in parts.items())
    if not pairs and not whole:
        raise CheckpointError(f"{path}: the adapter has no tensors")
    base = config.get("base_model_name_or_path")
    return Adapter(
        path,
        base if isinstance(base, str) else "",
        pairs,
        whole,
        config.get("fan_in_fan_out") is True,
        _number(path, config, "lora_alpha"),
    )


def merge(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """The checkpoint, as if the adapter had been merged into it. Rows are merged as they are read.

    Raises:
        UnsupportedError: the checkpoint is a GGUF file, or lacks what is adapted.
        PlanError: a weight has another shape than the adapter was trained for.
    """
    if checkpoint.container != "huggingface":
        raise UnsupportedError(
            f"{checkpoint.source} is a GGUF file, and adapters are merged into a directory",
            "make one first: qconvert export; llama.cpp takes an adapter beside the file: --lora",
        )
    changed: dict[str, TensorInfo] = {}
    missing = []
    for pair in adapter.pairs:
        own = _find(checkpoint, f"{pair.module}.weight")
        if own is None:
            missing.append(pair.module)
        else:
            changed[own.name] = replace(own, delta=_delta(own, pair, adapter))
    for name, info in adapter.whole.items():
        own = _find(checkpoint, name)
        if own is None or own.shape != info.shape:
            missing.append(name)
        else:
            changed[own.name] = replace(info, name=own.name)
    if missing:
        raise UnsupportedError(
            f"{adapter.path} adapts what {checkpoint.source} does not have as such: "
            f"{shorten(missing)}",
            f"it was trained for {adapter.base or 'another model'}; of weights that are stored "
            "otherwise, peft's merge_and_unload makes a checkpoint",
        )
    source = f"{checkpoint.source}+{adapter.path.resolve().name}"
    told = f"{adapter.path} is merged into {len(changed)} weights"
    return replace(
        checkpoint,
        source=source,
        tensors={**checkpoint.tensors, **changed},
        notices=(*checkpoint.notices, told),
    )


def _check(path: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind is None and "fine_tune_type" in config:
        raise UnsupportedError(f"{path} is an adapter of MLX, which is not merged here", FUSE)
    if kind != "LORA":
        raise UnsupportedError(
            f"{path} is an adapter of the kind {kind!r:.40}, which is not merged here",
            "merge it with peft: merge_and_unload, then save_pretrained",
        )
    for name, why in REFUSED.items():
        if config.get(name):
            raise UnsupportedError(
                f"{path}: {why} ({name} in {ADAPTER}), which is not merged here",
                "merge it with peft: merge_and_unload, then save_pretrained",
            )


def _tensors(path: Path) -> dict[str, TensorInfo]:
    for name in WEIGHTS:
        if (path / name).exists():
            file = inside(path, name, path)
            return read_safetensors(file) if file.suffix == ".safetensors" else read_pickle(file)
    raise CheckpointError(f"{path} has no {' or '.join(WEIGHTS)}", "the download may be incomplete")


def _pair(
    path: Path, module: str, parts: Mapping[str, TensorInfo], config: Mapping[str, Any]
) -> Pair:
    embedding = "lora_embedding_A" in parts
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    down, up = (parts.get(name) for name in names)
    if down is None or up is None:
        raise CheckpointError(f"{path}: {module} has one half of an addition alone")
    shapes = (down.shape, up.shape)
    if any(len(shape) != 2 for shape in shapes) or down.shape[0] != up.shape[1]:
        raise UnsupportedError(f"{path}: {module} is adapted by {list(shapes)}, no two matrices")
    magnitude = parts.get("lora_magnitude_vector")
    if magnitude is not None and magnitude.elements != up.shape[0]:
        raise CheckpointError(f"{path}: {module} has {magnitude.elements} magnitudes")
    rank = down.shape[0]
    alpha = _of_module(path, config, "alpha_pattern", module)
    if alpha is None:
        alpha = _number(path, config, "lora_alpha")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Pair(module, down, up, scale, magnitude, embedding)


def _of_module(path: Path, config: Mapping[str, Any], key: str, module: str) -> float | None:
    """What a pattern says of a module, as peft matches them: at the end of its name."""
    import regex

    patterns = config.get(key)
    for pattern, value in patterns.items() if isinstance(patterns, Mapping) else ():
        try:
            if regex.match(rf"(.*\.)?({pattern})$", module, timeout=PATIENCE):
                return _number(path, {key: value}, key)
        except (regex.error, TimeoutError) as error:
            raise CheckpointError(f"{path}: {key} has {pattern!r:.60}: {error}") from error
    return None


def _number(path: Path, config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise CheckpointError(f"{path / ADAPTER}: {key} is {value!r:.60}, no number")


def _find(checkpoint: Checkpoint, name: str) -> TensorInfo | None:
    """A tensor by its name in the model, whatever wraps one of the two."""
    own = checkpoint.tensors.get(name)
    if own is not None:
        return own
    found = [info for known, info in checkpoint.tensors.items() if _alike(known, name)]
    return found[0] if len(found) == 1 else None


def _alike(one: str, other: str) -> bool:
    return one.endswith(f".{other}") or other.endswith(f".{one}")


def _delta(own: TensorInfo, pair: Pair, adapter: Adapter) -> Delta:
    wanted: tuple[int, ...] = (pair.up.shape[0], pair.down.shape[1])
    turned = adapter.turned or pair.embedding
    if turned:
        wanted = wanted[::-1]
    if own.shape != wanted:
        raise PlanError(
            f"{own.name} has shape {list(own.shape)}, and {adapter.path} is for {list(wanted)}",
            f"it was trained for {adapter.base or 'another model'}",
        )
    if turned and pair.magnitude is not None:
        raise UnsupportedError(
            f"{adapter.path}: DoRA of {own.name}, which is stored [in, out], is not merged here",
            "merge it with peft: merge_and_unload, then save_pretrained",
        )
    return Delta(pair.down, pair.up, pair.scale, turned, pair.magnitude)
