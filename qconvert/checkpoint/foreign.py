"""What is no model in Hugging Face's form, told by the names of its files or tensors: what it is,
and what to do with it.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from qconvert.errors import UnsupportedError

ORIGINAL = "start from the original checkpoint, in f32, f16, bf16 or fp8"
MERGE = (
    "name its base model, and the adapter with --adapter; where it is merged already, remove "
    "adapter_config.json"
)
BESIDE = (
    "--adapter {} merges it into the weights beside it; where it is merged already, remove "
    "adapter_config.json"
)
PYTORCH = "load it with transformers where it can be read, and save_pretrained writes safetensors"
WEIGHTS = "name the model's directory, or its .safetensors file"

THEIRS = (
    "start from the same model in Hugging Face's form (config.json and model*.safetensors), or "
    "make it with the conversion script of the family in transformers"
)
FUSE = "merge it into its base model with mlx_lm.fuse"
MERGED = "merge it into its base model with peft: merge_and_unload, then save_pretrained"
UNGATHERED = (
    "DeepSpeed leaves such tensors behind where weights were not gathered before they were saved: "
    "make the checkpoint again with its zero_to_fp32.py"
)

ADAPTER = "adapter_config.json"

FILES = (
    (ADAPTER, "a PEFT adapter", MERGE),
    ("adapter_model.*", "a PEFT adapter", MERGE),
    ("pytorch_lora_weights.*", "a LoRA adapter", MERGE),
    ("model_index.json", "a diffusers pipeline", "name the text model's folder in it"),
    ("tf_model.h5", "a TensorFlow checkpoint", PYTORCH),
    ("*.h5", "a TensorFlow checkpoint", PYTORCH),
    ("*.ckpt.index", "a TensorFlow checkpoint", PYTORCH),
    ("*.ckpt", "a checkpoint of TensorFlow or Lightning", PYTORCH),
    ("saved_model.pb", "a TensorFlow model", PYTORCH),
    ("*.msgpack", "a Flax checkpoint", PYTORCH),
    ("*.onnx", "an ONNX model", ORIGINAL),
    ("openvino_model.xml", "an OpenVINO model", ORIGINAL),
    ("rust_model.ot", "a checkpoint of rust-bert", PYTORCH),
    ("*.nemo", "a NeMo checkpoint", "convert it with NeMo's own scripts first"),
    ("consolidated*.safetensors", "weights in Mistral's own format", THEIRS),
    ("consolidated.*", "weights as their makers train them", THEIRS),
    ("*.distcp", "a distributed training checkpoint", "gather it into safetensors first"),
    ("optimizer.*", "the state of an optimizer", WEIGHTS),
    ("scheduler.pt", "the state of a training", WEIGHTS),
    ("training_args.bin", "the settings of a training", WEIGHTS),
    ("rng_state*.pth", "the state of a training", WEIGHTS),
)
"""Patterns of file names, the surest first."""

TENSORS = (
    ("*.lora_[AB].*", "a PEFT adapter", MERGED),
    ("*.lora_embedding_[AB]*", "a PEFT adapter", MERGED),
    ("*.lora_magnitude_vector*", "a PEFT adapter", MERGED),
    ("*.lora_[ab]", "an adapter of MLX", FUSE),
    ("*[._]lora[._]down.*", "a LoRA adapter", MERGED),
    ("*.attention.wq.weight", "weights in their makers' own format", THEIRS),
    ("blk.*.weight.absmax", "a calibration", "name its model, and the calibration with -c"),
    ("*.weight.absmax", "weights of bitsandbytes (4 bits)", ORIGINAL),
    ("*.SCB", "weights of bitsandbytes (8 bits)", ORIGINAL),
    ("*.g_idx", "weights of GPTQ", ORIGINAL),
    ("*.qweight", "weights of GPTQ or AWQ", ORIGINAL),
    ("*.weight_packed", "packed integer codes", ORIGINAL),
    ("*.W_q", "weights of HQQ", ORIGINAL),
    ("*.codebooks", "weights of AQLM", ORIGINAL),
    ("*.biases", "weights of MLX", ORIGINAL),
)
"""Patterns of tensors' names that no model in full has."""

NO_DIGITS = {ord(digit): None for digit in "0123456789"}

WHOLE = ("state_dict", "model_state_dict", "model", "module", "weights")
"""Under which names trainers keep the weights in what they save."""


def foreign_files(names: Iterable[str]) -> tuple[str, str] | None:
    """What files of these names are, and what to do; None where nothing is known."""
    held = list(names)
    for pattern, what, hint in FILES:
        if any(fnmatchcase(name, pattern) for name in held):
            return what, hint
    return None


def foreign_state(state: Mapping[Any, Any]) -> tuple[str, str] | None:
    """What a pickled dictionary is that is none of tensors, and what to do; None where nothing is
    known."""
    if {"state", "param_groups"} <= state.keys():
        return "the state of an optimizer", WEIGHTS
    if {"last_epoch", "_step_count"} <= state.keys():
        return "the state of a training", WEIGHTS
    weights = next((key for key in WHOLE if isinstance(state.get(key), Mapping)), None)
    if weights is not None:
        return (
            f"the state of a training, with the weights under {weights!r}",
            f"save those alone: torch.load(file)[{weights!r}], as model.safetensors",
        )
    return None


def foreign_tensors(names: Iterable[str]) -> tuple[str, str] | None:
    """What tensors of these names are, and what to do; None where nothing is known."""
    # One name of each kind: experts' are many thousands, and no pattern has a digit.
    kinds: dict[str, str] = {}
    for name in names:
        kinds.setdefault(name.translate(NO_DIGITS), name)
    for pattern, what, hint in TENSORS:
        found = next((name for kind, name in kinds.items() if fnmatchcase(kind, pattern)), None)
        if found is not None:
            return f"{what}: tensor {found!r:.200}", hint
    return None


def check_tensors(where: object, names: Iterable[str]) -> None:
    """Refuse tensors that are codes of another program, or an adapter's.

    Raises:
        UnsupportedError: they are.
    """
    if found := foreign_tensors(names):
        raise UnsupportedError(f"{where} holds {found[0]}", found[1])
