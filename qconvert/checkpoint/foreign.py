"""What is no model in Hugging Face's form, told by the names of its files or tensors: what it is,
and what to do with it.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from qconvert.errors import UnsupportedError

ORIGINAL = "start from the original checkpoint, in f32, f16, bf16 or fp8"
MERGE = (
    "merge it into its base model with peft (merge_and_unload, then save_pretrained); where that "
    "is done already, remove adapter_config.json"
)
PYTORCH = "load it with transformers where it can be read, and save_pretrained writes safetensors"
WEIGHTS = "name the model's directory, or its .safetensors file"

ADAPTER = "adapter_config.json"

FILES = (
    (ADAPTER, "a PEFT adapter", MERGE),
    ("adapter_model.*", "a PEFT adapter", MERGE),
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
    ("consolidated.*", "weights as their makers train them", PYTORCH),
    ("*.distcp", "a distributed training checkpoint", "gather it into safetensors first"),
    ("optimizer.*", "the state of an optimizer", WEIGHTS),
    ("scheduler.pt", "the state of a training", WEIGHTS),
    ("training_args.bin", "the settings of a training", WEIGHTS),
    ("rng_state*.pth", "the state of a training", WEIGHTS),
)
"""Patterns of file names, the surest first."""

TENSORS = (
    (".weight.absmax", "weights of bitsandbytes (4 bits)"),
    (".SCB", "weights of bitsandbytes (8 bits)"),
    (".g_idx", "weights of GPTQ"),
    (".qweight", "weights of GPTQ or AWQ"),
    (".weight_packed", "packed integer codes"),
    (".W_q", "weights of HQQ"),
    (".codebooks", "weights of AQLM"),
    (".biases", "weights of MLX"),
)
"""How the names of tensors end that no model in full has."""

MODULES = (".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_magnitude_vector")


def foreign_files(names: Iterable[str]) -> tuple[str, str] | None:
    """What files of these names are, and what to do; None where nothing is known."""
    held = list(names)
    for pattern, what, hint in FILES:
        if any(fnmatchcase(name, pattern) for name in held):
            return what, hint
    return None


def check_tensors(where: object, names: Iterable[str]) -> None:
    """Refuse tensors that are codes of another program, or an adapter's.

    Raises:
        UnsupportedError: they are.
    """
    held = list(names)
    adapter = next((name for name in held if any(part in name for part in MODULES)), None)
    if adapter is not None:
        raise UnsupportedError(
            f"{where} holds a PEFT adapter: tensor {adapter!r:.200}",
            "merge it into its base model with peft: merge_and_unload, then save_pretrained",
        )
    for ending, what in TENSORS:
        found = next((name for name in held if name.endswith(ending)), None)
        if found is not None:
            raise UnsupportedError(
                f"{where} holds {what}, and these are not read: tensor {found!r:.200}", ORIGINAL
            )
