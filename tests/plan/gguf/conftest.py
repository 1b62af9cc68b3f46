"""What llama-quantize decides, asked of llama.cpp itself, and models of many shapes to ask about.

llama.cpp's dry run needs only a file's header, so the models are headers over empty files.
"""

import ctypes
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import common
import gguf
import numpy as np
import pytest

from qconvert.plan.gguf.facts import ModelFacts

# One line of the dry run's log: name, source type, and the new type where it changes.
_LINE = re.compile(
    r"\[ *\d+/ *\d+\] (\S+) +- \[.*?\], type = +(\S+), size =[^\n(]*(?:\((\w+)\))?\n"
)


Tensor = tuple[str, tuple[int, ...], str]
"""Name, row-major shape, and type in a 16-bit file."""


@dataclass(frozen=True)
class ModelShape:
    """A model's header."""

    architecture: str
    blocks: int
    heads: int
    kv_heads: int
    experts: int
    tensors: tuple[Tensor, ...]

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(self.architecture, self.blocks, self.heads, self.kv_heads, self.experts)

    @property
    def as_checkpoint(self) -> list[Tensor]:
        """The tensors as a bfloat16 Hugging Face checkpoint would have them."""
        return [(name, shape, "BF16") for name, shape, _ in self.tensors]


_NORMS = ("attn_norm", "ffn_norm")
_SPLIT = ("attn_q", "attn_k", "attn_v")


def model_shape(
    architecture: str,
    blocks: int,
    heads: int,
    kv_heads: int,
    *,
    experts: int = 0,
    width: int = 256,
    ffn: int = 512,
    tied: bool = False,
    fused: bool = False,
    gate: bool = True,
    biases: bool = False,
    shared: bool = False,
    extra: Mapping[str, tuple[int, ...]] | None = None,
) -> ModelShape:
    """A decoder of that shape. `fused` has attn_qkv; `shared` a shared expert beside the others;
    `extra` are float32 tensors outside the blocks."""
    tensors: list[Tensor] = [("token_embd.weight", (320, width), "BF16")]
    if not tied:
        tensors.append(("output.weight", (320, width), "BF16"))
    tensors += [(name, shape, "F32") for name, shape in (extra or {}).items()]
    head = 32
    queries, keys = heads * head, kv_heads * head
    for block in range(blocks):
        matrices: dict[str, tuple[int, ...]] = {"attn_output": (width, queries)}
        if fused:
            matrices["attn_qkv"] = (queries + 2 * keys, width)
        else:
            matrices |= {"attn_q": (queries, width), "attn_k": (keys, width)}
            matrices["attn_v"] = (keys, width)
        stack = (experts,) if experts else ()
        suffix = "_exps" if experts else ""
        gates = ("ffn_gate", "ffn_up") if gate else ("ffn_up",)
        matrices |= {f"{name}{suffix}": (*stack, ffn, width) for name in gates}
        matrices[f"ffn_down{suffix}"] = (*stack, width, ffn)
        if shared:
            matrices |= {f"{name}_shexp": (ffn, width) for name in gates}
            matrices["ffn_down_shexp"] = (width, ffn)
        tensors += [(f"blk.{block}.{n}.weight", shape, "BF16") for n, shape in matrices.items()]
        vectors = {f"{name}.weight": (width,) for name in _NORMS}
        if experts:
            vectors["ffn_gate_inp.weight"] = (experts, width)
        if shared:
            vectors["ffn_gate_inp_shexp.weight"] = (width,)
        if biases:
            vectors |= {f"{name}.bias": (matrices[name][-2],) for name in matrices}
        tensors += [(f"blk.{block}.{name}", shape, "F32") for name, shape in vectors.items()]
    tensors.append(("output_norm.weight", (width,), "F32"))
    return ModelShape(architecture, blocks, heads, kv_heads, experts, tuple(tensors))


SHAPES: dict[str, ModelShape] = {
    "llama": model_shape("llama", 32, 8, 8),
    "llama grouped by 4": model_shape("llama", 22, 8, 2),
    "llama tied": model_shape("llama", 30, 9, 3, width=576, ffn=1536, tied=True),
    "llama of 80 blocks": model_shape("llama", 80, 8, 1),
    "llama of 80 blocks, not grouped": model_shape("llama", 80, 8, 8),
    "llama of one block": model_shape("llama", 1, 8, 4),
    "mixtral": model_shape("llama", 32, 8, 2, experts=8),
    "mixtral of 4 experts": model_shape("llama", 24, 8, 4, experts=4),
    "qwen2": model_shape("qwen2", 24, 14, 2, width=896, ffn=4864, tied=True, biases=True),
    "qwen2 of 80 blocks": model_shape("qwen2", 80, 8, 8),
    "qwen2moe": model_shape("qwen2moe", 24, 16, 16, experts=60, ffn=352, shared=True),
    "qwen3": model_shape("qwen3", 36, 16, 8, tied=True),
    "qwen3moe": model_shape("qwen3moe", 48, 32, 4, experts=128, ffn=768),
    "gemma3": model_shape("gemma3", 26, 4, 1, width=1152, ffn=6912, tied=True),
    "phi3": model_shape("phi3", 32, 8, 8, fused=True, gate=False),
    "gpt2": model_shape(
        "gpt2",
        12,
        12,
        12,
        width=768,
        ffn=3072,
        fused=True,
        gate=False,
        biases=True,
        tied=True,
        extra={"position_embd.weight": (128, 768)},
    ),
    "olmo2": model_shape("olmo2", 16, 16, 16),
    "granite": model_shape("granite", 40, 32, 8, tied=True),
    "smollm3": model_shape("smollm3", 36, 16, 4, tied=True),
    "bert": model_shape(
        "bert",
        6,
        12,
        12,
        width=384,
        ffn=1536,
        gate=False,
        biases=True,
        tied=True,
        extra={"position_embd.weight": (512, 384), "token_types.weight": (2, 384)},
    ),
    "falcon": model_shape("falcon", 32, 71, 1, fused=True, gate=False),
    "falcon of odd rows": model_shape("falcon", 32, 8, 8, width=320, fused=True, gate=False),
    "odd rows": model_shape("llama", 12, 6, 2, width=576, ffn=1500),
    "rows of 40": model_shape("llama", 12, 6, 2, width=40, ffn=1504, tied=True),
    "odd experts": model_shape("llama", 9, 8, 2, experts=8, width=288, ffn=224),
}


def write_header(path: Path, shape: ModelShape) -> Path:
    """A GGUF file of that shape whose weights are a hole in the file."""
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_block_count(shape.blocks)
    writer.add_context_length(512)
    writer.add_embedding_length(shape.tensors[0][1][-1])
    writer.add_feed_forward_length(512)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(32)
    writer.add_value_length(32)
    writer.add_rope_dimension_count(32)
    writer.add_layer_norm_eps(1e-5)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(320)
    writer.add_causal_attention(shape.architecture != "bert")
    writer.add_sliding_window(128)
    writer.add_logit_scale(1.0)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(512)
        writer.add_expert_shared_feed_forward_length(512)
    return write_hollow(writer, path, shape.tensors)


def write_hollow(writer: gguf.GGUFWriter, path: Path, tensors: Sequence[Tensor]) -> Path:
    """Finish a file whose weights are a hole: the header, and then as many bytes as they need."""
    size = 0
    for name, dims, kind in tensors:
        nbytes = prod(dims) * (4 if kind == "F32" else 2)
        raw = gguf.GGMLQuantizationType[kind]
        writer.add_tensor_info(name, dims, np.dtype(np.float32), nbytes, raw_dtype=raw)
        size += -(-nbytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(-(-path.stat().st_size // 32) * 32 + size)
    return path


@pytest.fixture(params=SHAPES)
def shape_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shape(shape_name: str) -> ModelShape:
    return SHAPES[shape_name]


@pytest.fixture(scope="session")
def shapes() -> Mapping[str, ModelShape]:
    return SHAPES


@pytest.fixture(scope="session")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a shape -> its header as a file."""
    folder = tmp_path_factory.mktemp("headers")

    def header(name: str) -> Path:
        path = folder / f"{name}.gguf"
        return path if path.exists() else write_header(path, SHAPES[name])

    return header


@pytest.fixture(scope="session")
def hollow() -> Callable[..., Path]:
    return write_hollow


LlamaTypes = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
def llama_types() -> Iterator[LlamaTypes]:
    """(path, file type number, options of llama_model_quantize) -> type of every tensor."""
    llama_cpp = pytest.importorskip("llama_cpp")
    lines: list[str] = []

    @llama_cpp.llama_log_callback
    def collect(level: int, text: bytes, data: Any) -> None:
        lines.append(text.decode(errors="replace"))

    def ask(
        path: Path,
        ftype: int,
        *,
        output: Path | None = None,
        importance: Sequence[str] = (),
        **options: Any,
    ) -> dict[str, str]:
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = int(ftype)
        parameters.nthread = 2
        parameters.allow_requantize = True
        parameters.dry_run = output is None
        for name, value in options.items():
            setattr(parameters, name, value)
        one = (ctypes.c_float * 1)(1.0)
        entries = [(name.encode(), one, 1) for name in importance]
        matrix = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))(
            *entries, (None, None, 0)
        )
        if entries:
            parameters.imatrix = matrix
        lines.clear()
        llama_cpp.llama_log_set(collect, ctypes.c_void_p(0))
        target = str(output or "unused").encode()
        status = llama_cpp.llama_model_quantize(str(path).encode(), target, parameters)
        log = "".join(lines)
        assert status == 0, log[-2000:]
        return {name: (new or old).upper() for name, old, new in _LINE.findall(log)}

    yield ask
    common.silence_llama()
    llama_cpp.llama_log_set(common._CALLBACKS[0], ctypes.c_void_p(0))
