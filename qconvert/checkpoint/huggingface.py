"""Hugging Face directories: config.json and weights in one file or in shards.

config.json
model.safetensors          or  model.safetensors.index.json and its shards
pytorch_model.bin          or  pytorch_model.bin.index.json and its shards
"""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qconvert.checkpoint.codes import has_codes, join_codes
from qconvert.checkpoint.files import check_small_files, inside, read_json_object, reason
from qconvert.checkpoint.foreign import ADAPTER, BESIDE, MERGE, check_tensors, foreign_files
from qconvert.checkpoint.fp8 import attach_scales, check_method
from qconvert.checkpoint.pickles import read_pickle
from qconvert.checkpoint.quantized.join import join_quantized, method_of
from qconvert.checkpoint.quantized.modelopt import read_settings
from qconvert.checkpoint.safetensors import read_safetensors
from qconvert.checkpoint.types import Checkpoint, TensorInfo
from qconvert.checkpoint.wrappers import unwrapped
from qconvert.errors import CheckpointError, UnsupportedError

# In transformers' order of preference.
SINGLE = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
FILES = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
TIED = ("lm_head.weight", "embed_tokens.weight", "wte.weight")
"""Of a tied model an index may name both, though one is stored; what is missing the model tells."""


def open_directory(path: Path, source: str, *, base: bool = False) -> Checkpoint:
    """Index a directory.

    Args:
        base: whether its own weights are asked for, though an adapter is beside them.

    Raises:
        CheckpointError: it is no checkpoint, or one that cannot be trusted.
        UnsupportedError: its weights are of a kind that is not read.
    """
    if not base:
        _check_adapter(path)
    if not (path / "config.json").exists():
        _check_weights(path)
    config = read_config(path, base=base)
    check_method(quantization_of(config))
    return _checkpoint(path, source, config, read_weights(path))


def _check_adapter(path: Path) -> None:
    """transformers would load the base model and this on top of it, whatever else is here."""
    if (path / ADAPTER).exists():
        message, hint = f"{path} holds a PEFT adapter, which is not read", MERGE
        whole = (path / "config.json").exists() and any(
            (path / (name + end)).exists() for name in SINGLE for end in ("", INDEX)
        )
        raise UnsupportedError(message, BESIDE.format(shlex.quote(str(path))) if whole else hint)


def _check_weights(path: Path) -> None:
    """Weights that say what they are, and that there is no configuration for a reason."""
    for name in SINGLE:
        if (path / name).exists():
            check_tensors(path, _read(inside(path, name, path)))


def _foreign(path: Path, names: Iterable[str]) -> tuple[str, str] | tuple[()]:
    """What a directory holds in a model's stead, where that is known."""
    found = foreign_files(names)
    return (f"{path} holds {found[0]}, which is not read", found[1]) if found else ()


def read_weights(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a directory, as they are stored: codes and scales too.

    Raises:
        CheckpointError: there are none, or they cannot be trusted.
        UnsupportedError: its weights are of a kind that is not read.
    """
    for name in SINGLE:
        if (path / name).exists():
            return _read(inside(path, name, path))
        if (path / (name + INDEX)).exists():
            return _read_index(path, name + INDEX)
    names = _entries(path)
    files = [name for name in names if name.endswith(FILES) and not foreign_files([name])]
    if not files and (told := _foreign(path, names)):
        raise UnsupportedError(*told)
    raise CheckpointError(*_no_weights(path, files))


def open_weights(path: Path, source: str, *, base: bool = False) -> Checkpoint:
    """Index one file of weights, with the config.json beside it; `base` as in `open_directory`."""
    for index in (path.parent / (name + INDEX) for name in SINGLE):
        if index.exists() and path.name in _weight_map(index).values():
            raise CheckpointError(
                f"{path} is one shard of several", f"name the directory: {path.parent}"
            )
    tensors = _read(path)
    if not (path.parent / "config.json").exists():
        check_tensors(path, tensors)
    config = read_config(path.parent, base=base)
    check_method(quantization_of(config))
    return _checkpoint(path.parent, source, config, tensors)


def _checkpoint(
    path: Path, source: str, config: dict[str, Any], tensors: Mapping[str, TensorInfo]
) -> Checkpoint:
    if not tensors:
        raise CheckpointError(f"{path}: the checkpoint has no tensors")
    tensors, notices = unwrapped(tensors, config)
    quantization = quantization_of(config)
    if has_codes(quantization):
        tensors = join_codes(tensors, config, quantization)
    elif method := method_of(quantization):
        tensors = join_quantized(tensors, config, quantization, method)
    check_tensors(path, tensors)
    tensors = attach_scales(tensors, quantization)
    return Checkpoint("huggingface", source, path, config=config, tensors=tensors, notices=notices)


def read_config(directory: Path, *, base: bool = False) -> dict[str, Any]:
    """`config.json`; `base` as in `open_directory`.

    Raises:
        CheckpointError: there is none, or it cannot be a model's.
        UnsupportedError: it is not all that the directory's model is made of.
    """
    if not base:
        _check_adapter(directory)
    if not any(_entries(directory)):
        raise CheckpointError(
            f"{directory} is an empty directory",
            "download a model into it, or name another directory",
        )
    path = directory / "config.json"
    if not path.exists():
        if told := _foreign(directory, _entries(directory)):
            raise UnsupportedError(*told)
        raise CheckpointError(
            f"{directory} has no config.json",
            "name a directory as save_pretrained writes it, or a .gguf file",
        )
    check_small_files(directory)
    config = read_json_object(inside(directory, path.name, directory))
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise CheckpointError(
            f"{path} does not name its architectures",
            'add the class that the weights belong to, such as "architectures": '
            '["LlamaForCausalLM"]',
        )
    if quantization_of(config) is None and (settings := read_settings(directory)) is not None:
        config["quantization_config"] = settings
    return config


def quantization_of(config: Mapping[str, Any]) -> Any:
    """`quantization_config`, which may be anything, or None."""
    inner = config.get("text_config")
    found = config.get("quantization_config")
    if found is None and isinstance(inner, dict):
        found = inner.get("quantization_config")
    return found


def _read(path: Path) -> dict[str, TensorInfo]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return read_pickle(path)


def _weight_map(path: Path) -> dict[str, Any]:
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map")
    return weight_map


def _read_index(directory: Path, name: str) -> dict[str, TensorInfo]:
    index = directory / name
    weight_map = _weight_map(inside(directory, name, directory))
    shards = {shard: inside(directory, shard, index) for shard in _shards(weight_map, index)}
    missing = [shard for shard, path in shards.items() if not path.exists()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(
            f"{directory}: {len(missing)} of {len(shards)} shards missing: "
            f"{', '.join(missing[:3])}{more}",
            "the download may be incomplete: fetch the missing files",
        )
    tensors: dict[str, TensorInfo] = {}
    for shard, path in shards.items():
        for tensor in _read(path).values():
            if weight_map.get(tensor.name) != shard:
                raise CheckpointError(
                    f"{path}: tensor {tensor.name!r:.200} is not what {name} promises",
                    "index and shards are of different checkpoints, or one was edited",
                )
            tensors[tensor.name] = tensor
    absent = next((k for k in weight_map if k not in tensors and not k.endswith(TIED)), None)
    if absent is not None:
        raise CheckpointError(
            f"{shards[weight_map[absent]]}: tensor {absent!r:.200} is missing, though {name} "
            "promises it",
            "index and shards are of different checkpoints, or one was edited",
        )
    return tensors


def _shards(weight_map: Mapping[str, Any], index: Path) -> list[str]:
    for shard in weight_map.values():
        if not isinstance(shard, str):
            raise CheckpointError(f"{index}: {shard!r:.80} is not a file name")
    return sorted(set(weight_map.values()))


def _entries(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise CheckpointError(f"{path}: {reason(error)}") from error


def _no_weights(path: Path, files: list[str]) -> tuple[str, str]:
    message = f"{path} has no {' or '.join(SINGLE)} and no index of shards"
    if any("-of-" in name for name in files):
        return message, "the index (*.index.json) of the shards is missing: fetch it"
    if files:
        return message, f"name the file itself: {path / files[0]}"
    return message, "the download may be incomplete: fetch the weights"
