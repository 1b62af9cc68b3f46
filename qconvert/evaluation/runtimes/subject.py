"""What the user names, as something that computes logits."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gguf import LlamaFileType

from qconvert.checkpoint import Checkpoint, fingerprint
from qconvert.checkpoint.files import file_size
from qconvert.checkpoint.huggingface import read_config
from qconvert.checkpoint.open import locate, open_path, with_states
from qconvert.errors import QconvertError, UnsupportedError, UsageError
from qconvert.evaluation.divergence.types import Runtime, Subject
from qconvert.evaluation.runtimes.library import INSTALL, MISSING, has_llama
from qconvert.evaluation.runtimes.llama import LlamaRuntime
from qconvert.evaluation.runtimes.settings import DEFAULT, Settings
from qconvert.evaluation.runtimes.torch_blocks import TorchRuntime
from qconvert.evaluation.runtimes.whole import TransformersRuntime
from qconvert.formats.safetensors.types import ActivationFormat, WeightFormat
from qconvert.inspection.identify import identify
from qconvert.inspection.quantized import MLX, Quantized, look_at_quantized
from qconvert.model.families import find_family

BackendName = Literal["auto", "torch", "transformers", "llama.cpp"]
UNROUNDED = "torch does not round the inputs of layers: this is what the rounded weights cost alone"
FLOAT4 = "transformers unpacks float4 to bfloat16, and computes in it"
FILE_TYPES: dict[int, str] = {
    kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in LlamaFileType
}
BACKENDS: tuple[BackendName, ...] = ("auto", "torch", "transformers", "llama.cpp")


@dataclass(frozen=True)
class Reference:
    """The original that files are compared with.

    Attributes:
        name: how the user named it.
        fingerprint: tells it from other models, wherever it is.
        checkpoint: it, opened.
        runtime: what computes its logits.
        notices: what the user should know.
    """

    name: str
    fingerprint: str
    checkpoint: Checkpoint
    runtime: Runtime
    notices: tuple[str, ...] = ()


def open_reference(
    model: str,
    backend: BackendName = "auto",
    settings: Settings = DEFAULT,
    adapter: Path | None = None,
) -> Reference:
    """The original: a directory, a hub id or a GGUF file. Arguments and errors are those of
    `open_subject`."""
    subject = open_subject(model, backend, settings, adapter)
    checkpoint = subject.checkpoint
    assert checkpoint is not None
    return Reference(model, fingerprint(checkpoint), checkpoint, subject.runtime, subject.notices)


def open_subject(
    path: str,
    backend: BackendName = "auto",
    settings: Settings = DEFAULT,
    adapter: Path | None = None,
) -> Subject:
    """A model in any form; only headers are read.

    "auto" is llama.cpp for GGUF files, where it is installed; transformers for directories that
    round the inputs of their layers, or store weights as only transformers reads them; else torch.

    Args:
        path: a directory, a GGUF file (of several shards, the first) or a hub id.
        adapter: PEFT's, merged into a directory; torch runs the two.

    Raises:
        UsageError: the backend is missing, or cannot run such a file.
        CheckpointError: the file cannot be read or cannot be trusted.
        UnsupportedError: it is an encoder, or stored in a way that is not read.
    """
    if backend not in BACKENDS:
        raise UsageError(f"{backend!r} is not a backend", f"choose {', '.join(BACKENDS)}")
    source, place = locate(path)
    kind = identify(place)
    if kind == "quantized" and adapter is None:
        return _quantized(path, source, place, backend, settings)
    if kind not in ("checkpoint", "tensors", "quantized"):  # their faults are named on opening
        raise UsageError(f"{path} is no model, and cannot be evaluated", "name a model")
    checkpoint = open_path(source, place, adapter)
    _refuse_encoder(checkpoint)
    if adapter is not None and backend not in ("auto", "torch"):
        raise UsageError(f"{backend} does not merge an adapter", "use --backend torch")
    if checkpoint.container == "gguf":
        runtime, notices = _for_gguf(checkpoint, backend, settings)
    else:
        runtime, notices = _for_directory(checkpoint, backend, settings), ()
    return Subject(
        Path(path),
        _stored_bytes(place, checkpoint.files)
        if "quantization_config" in checkpoint.config
        else sum(map(file_size, checkpoint.files)),
        8 * checkpoint.nbytes / max(checkpoint.parameters, 1),
        _name(checkpoint),
        runtime,
        notices,
        checkpoint,
    )


def _for_gguf(
    checkpoint: Checkpoint, backend: BackendName, settings: Settings
) -> tuple[Runtime, tuple[str, ...]]:
    if backend == "transformers":
        raise UsageError(
            f"{checkpoint.source} is a GGUF file, which transformers does not run",
            "use --backend llama.cpp or torch",
        )
    if backend == "llama.cpp" or (backend == "auto" and has_llama()):
        return LlamaRuntime(checkpoint.path, settings), ()
    notice = f"{MISSING} ({INSTALL}): torch computes in its place"
    return TorchRuntime(checkpoint, settings), (notice,) if backend == "auto" else ()


def _for_directory(checkpoint: Checkpoint, backend: BackendName, settings: Settings) -> Runtime:
    _refuse_llama(checkpoint.source, backend)
    if backend == "transformers":
        return TransformersRuntime(checkpoint.path, checkpoint.source, settings)
    return TorchRuntime(checkpoint, settings)


def _stored_bytes(place: Path, files: Iterable[Path]) -> int:
    """Of quantized weights' files, and of all beside them in their directory: the tokenizer counts,
    as it does in a GGUF file."""
    beside = (file for file in place.iterdir() if file.is_file()) if place.is_dir() else ()
    return sum(map(file_size, {*files, *beside}))


def _quantized(
    path: str, source: str, place: Path, backend: BackendName, settings: Settings
) -> Subject:
    """A directory whose weights are codes."""
    _refuse_llama(source, backend)
    found = look_at_quantized(source, place)
    if found.method == MLX and backend == "transformers":
        raise UsageError(
            f"{source} is a directory for MLX, which transformers does not run",
            "use --backend torch, or mlx_lm.perplexity",
        )
    cached = found.config.get("kv_cache_scheme") is not None
    rounds = cached or any(layer.inputs is not None for layer in found.layers)
    checkpoint, why = _try_open(source, place, found)
    _refuse_encoder(checkpoint)
    if why is not None and backend == "torch":
        raise why
    _refuse_misfit(source, found, backend, why)
    runtime: Runtime
    notices: tuple[str, ...] = ()
    wanted = rounds and not found.misfit
    if found.method == MLX and why is not None:
        raise why
    if backend == "transformers" or (backend == "auto" and (wanted or why is not None)):
        folder = place if place.is_dir() else place.parent
        if settings.dtype == "auto" and _has_float4(found):
            settings, notices = replace(settings, dtype="bf16"), (FLOAT4,)
        runtime = TransformersRuntime(folder, source, settings)
    else:
        runtime = TorchRuntime(checkpoint, settings)
        if rounds:
            notices = (found.misfit, UNROUNDED) if backend == "auto" else (UNROUNDED,)
    bits = found.bits_per_weight or 8 * found.nbytes / max(checkpoint.parameters, 1)
    nbytes = _stored_bytes(place, {tensor.path for tensor in found.tensors.values()})
    return Subject(Path(path), nbytes, bits, _schemes(found), runtime, notices, checkpoint)


def _has_float4(found: Quantized) -> bool:
    return any((layer.form.type, layer.form.bits) == ("float", 4) for layer in found.layers)


def _try_open(
    source: str, place: Path, found: Quantized
) -> tuple[Checkpoint, UnsupportedError | None]:
    """The checkpoint; where its weights cannot be read, as far as it can, and why not."""
    try:
        return open_path(source, place), None
    except UnsupportedError as error:
        folder = place if place.is_dir() else place.parent
        config = read_config(folder)
        stored = Checkpoint("huggingface", source, folder, config, tensors=found.tensors)
        return with_states(stored), error


def _refuse_llama(source: str, backend: BackendName) -> None:
    if backend == "llama.cpp":
        raise UsageError(
            f"{source} is no GGUF file, and llama.cpp runs nothing else",
            "use --backend auto, torch or transformers",
        )


def _refuse_misfit(
    source: str, found: Quantized, backend: BackendName, why: UnsupportedError | None
) -> None:
    """What transformers computes wrongly, without a word, or not at all."""
    if found.misfit and (backend == "transformers" or why is not None):
        raise UsageError(f"{source}: {found.misfit}", "" if why else "use --backend torch")


def _refuse_encoder(checkpoint: Checkpoint) -> None:
    if is_encoder(checkpoint):
        raise UnsupportedError(
            f"{checkpoint.source} is an encoder: it predicts no next token, and has no perplexity",
            "compare its embeddings instead",
        )


def is_encoder(checkpoint: Checkpoint) -> bool:
    """Whether a model embeds texts and does not write them; False where that is not known."""
    if checkpoint.container == "gguf":
        name = checkpoint.metadata.get("general.architecture")
        causal = checkpoint.metadata.get(f"{name.value if name else ''}.attention.causal")
        return causal is not None and not causal.value
    try:
        return find_family(checkpoint.config).encoder
    except QconvertError:
        return False


def _name(checkpoint: Checkpoint) -> str:
    """A GGUF file's type, else the type of most bytes."""
    stored = checkpoint.metadata.get("general.file_type")
    if stored is not None:
        name: str = FILE_TYPES.get(int(stored.value), "unknown")
        return name
    sizes: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.stored_bytes
    return max(sizes, key=lambda dtype: sizes[dtype]) if sizes else "unknown"


def _schemes(found: Quantized) -> str:
    """The schemes of a directory's layers, that of most bytes first: "w4a16 + fp8"."""
    if found.method == MLX:
        mode = found.config.get("mode", "affine")
        return f"mlx{found.config.get('bits')}" if mode == "affine" else f"mlx-{mode}"
    names = dict.fromkeys(scheme_name(form, inputs) for form, inputs in found.kinds)
    return " + ".join(names) or found.method


def scheme_name(form: WeightFormat, inputs: ActivationFormat | None) -> str:
    """As `-t` has it: "w8a8", "fp8", "w4a16", "nvfp4a16"."""
    after = "a16" if inputs is None else f"a{inputs.bits}"
    if form.layout.startswith(("nvfp4", "mxfp4")):
        return form.layout[:5] + after
    if form.type == "float":
        return "fp8" if inputs is not None else f"fp{form.bits}a16"
    return f"w{form.bits}{after}"
