"""Helpers that several parts of the tests share: tiny generated models, and llama.cpp.

Every tiny model has unequal, unsymmetric dimensions, so that a wrong transpose, permutation or
split cannot go unseen: grouped heads, head sizes that are no power of two, a vocabulary that no
block divides. `wide` models have rows that K-types can pack, and enough layers for a mixture of
types to differ between them.

transformers and llama_cpp are imported inside the functions, so that importing this costs nothing.
"""

import ctypes
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY = 323
TOKENS = 64

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


@dataclass(frozen=True)
class Family:
    """A family's class in transformers and the settings of its tiny and its wide model.

    Attributes:
        shifted: the model adds one to the weights of its norms.
        scaled: it multiplies its embeddings.
        router: how large the weights of its routers are drawn; sigmoids saturate early.
    """

    model: str
    config: str
    tiny: dict[str, Any]
    wide: dict[str, Any] = field(default_factory=dict)
    shifted: bool = False
    scaled: bool = False
    router: float = 0.6


def sizes(
    hidden: int, heads: int, kv: int, head_dim: int | None, ffn: int, layers: int, **rest: Any
) -> dict[str, Any]:
    """The settings of a decoder's sizes."""
    given = {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "max_position_embeddings": 512,
        "rms_norm_eps": 0.02,  # large enough to be seen
    }
    return given | ({} if head_dim is None else {"head_dim": head_dim}) | rest


WIDE = {
    "hidden_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
}
WIDE_HEADS = WIDE | {"head_dim": 32}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        "LlamaForCausalLM",
        "LlamaConfig",
        sizes(288, 6, 2, 40, 416, 3, rope_parameters=LLAMA3)
        | {"attention_bias": True, "mlp_bias": True},
        WIDE_HEADS | {"attention_bias": False, "mlp_bias": False},
    ),
    "mistral": Family(
        "MistralForCausalLM",
        "MistralConfig",
        sizes(256, 6, 3, 24, 352, 3, sliding_window=None),
        WIDE_HEADS,
    ),
    "mixtral": Family(
        "MixtralForCausalLM",
        "MixtralConfig",
        sizes(160, 6, 2, 24, 224, 2, num_local_experts=5, num_experts_per_tok=2),
        WIDE_HEADS | {"num_local_experts": 8},
    ),
    "qwen2": Family("Qwen2ForCausalLM", "Qwen2Config", sizes(320, 8, 2, None, 416, 3), WIDE),
    "qwen3": Family("Qwen3ForCausalLM", "Qwen3Config", sizes(288, 6, 2, 40, 416, 3), WIDE_HEADS),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        sizes(192, 6, 3, 24, 352, 2, num_experts=5, num_experts_per_tok=2)
        | {"moe_intermediate_size": 96, "norm_topk_prob": True},
        WIDE_HEADS | {"moe_intermediate_size": 256},
    ),
    "gemma3": Family(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        sizes(192, 6, 2, 40, 416, 4, sliding_window=16)
        | {
            "query_pre_attn_scalar": 40,
            "final_logit_softcapping": 20.0,
            "layer_types": ["sliding_attention"] * 2 + ["full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "linear",
                    "factor": 8.0,
                    "rope_theta": 500000.0,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
            },
        },
        WIDE_HEADS | {"query_pre_attn_scalar": 32, "layer_types": None},
        shifted=True,
        scaled=True,
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        "Phi3Config",
        sizes(320, 8, 2, None, 416, 3)
        | {
            "original_max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 30000.0,
                "partial_rotary_factor": 0.75,
            },
        },
        WIDE,
    ),
    "gpt2": Family(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 240, "n_head": 6, "n_inner": 416, "n_layer": 3, "n_positions": 96}
        | {"layer_norm_epsilon": 0.02},
        {"n_embd": 256, "n_head": 8, "n_inner": 512, "n_layer": 8},
    ),
    "olmo2": Family("Olmo2ForCausalLM", "Olmo2Config", sizes(192, 8, 2, None, 416, 3), WIDE),
    "granite": Family(
        "GraniteForCausalLM",
        "GraniteConfig",
        sizes(320, 8, 4, None, 416, 3)
        | {
            "attention_multiplier": 0.11,
            "embedding_multiplier": 7.0,
            "residual_multiplier": 0.31,
            "logits_scaling": 5.0,
        },
        WIDE,
        scaled=True,
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM", "SmolLM3Config", sizes(288, 6, 2, 40, 416, 5), WIDE_HEADS
    ),
    "bert": Family(
        "BertModel",
        "BertConfig",
        {
            "hidden_size": 320,
            "num_attention_heads": 8,
            "intermediate_size": 416,
            "num_hidden_layers": 3,
            "max_position_embeddings": 96,
            "layer_norm_eps": 0.02,
        },
        {
            "hidden_size": 256,
            "num_attention_heads": 8,
            "intermediate_size": 512,
            "num_hidden_layers": 8,
        },
    ),
}


def tiny_model(
    family: str | Family, *, tied: bool = False, wide: bool = False, **changes: Any
) -> Any:
    """A random float32 model in evaluation mode, the same at every call.

    Args:
        family: a key of FAMILIES, or another family.
        tied: the output is the token embedding.
        wide: rows of 256 and 512 and eight layers.
        changes: settings of the configuration to replace.
    """
    import torch
    import transformers

    entry = FAMILIES[family] if isinstance(family, str) else family
    settings = {"vocab_size": VOCABULARY} | entry.tiny | (entry.wide if wide else {}) | changes
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if entry.model != "BertModel":
        settings["tie_word_embeddings"] = tied
    config = getattr(transformers, entry.config)(**ids, **settings)
    config._attn_implementation = "eager"
    model = getattr(transformers, entry.model)(config).float().eval()
    spread_weights(model, entry)
    with torch.no_grad():
        model.tie_weights()
    return model


def spread_weights(model: Any, family: Family) -> None:
    """Draw weights that make every part of a model matter: norms round one (or zero, where the
    model adds the one), biases that are not zero, logits that are well apart, and routers that
    know what they want."""
    import torch

    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            random = torch.randn(weight.shape, generator=draw)
            if name.endswith(("embed_tokens.weight", "wte.weight")) and not family.scaled:
                weight.copy_(0.3 * random)
            elif name.endswith((".gate.weight", ".router.weight", ".wg.weight")):
                weight.copy_(family.router * random)
            elif weight.dim() > 1:
                weight.copy_(0.06 * random)
            elif name.endswith("bias"):
                weight.copy_(0.1 * random)
            else:
                weight.copy_(0.2 * random + (0.0 if family.shifted else 1.0))
        for name, buffer in model.named_buffers():
            if name.endswith("correction_bias"):  # of scores between zero and one
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=draw))


def save_model(
    family: str | Family,
    directory: Path,
    *,
    tied: bool = False,
    wide: bool = False,
    max_shard_size: str = "50GB",
    **changes: Any,
) -> Any:
    """Write a tiny model's config.json and safetensors; returns the model."""
    model = tiny_model(family, tied=tied, wide=wide, **changes)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    return model


def convert_model(directory: Path, path: Path, file_type: str) -> Any:
    """Write a checkpoint as GGUF, as the program does it. Returns the plan.

    Without a tokenizer beside them, as tiny models are, files are written without one, which
    llama.cpp accepts.
    """
    from qconvert.checkpoint import open_checkpoint
    from qconvert.machine.watcher import Silent
    from qconvert.model.open import open_model
    from qconvert.plan.make import make_plan
    from qconvert.plan.recipe import Recipe
    from qconvert.run.outputs import write_outputs

    plan = make_plan(open_model(open_checkpoint(str(directory))), Recipe(file_type, output=path))
    write_outputs([plan], 2, Silent())
    return plan


def finish_gguf(writer: Any, path: Path) -> Path:
    """Write all that the writer was given."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def wrap_gemma3(directory: Path) -> None:
    """Let config.json be that of the multimodal class around the text model."""
    place = directory / "config.json"
    outer = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": json.loads(place.read_text()),
    }
    place.write_text(json.dumps(outer))


def random_tokens(count: int = TOKENS, vocabulary: int = VOCABULARY, seed: int = 7) -> list[int]:
    return np.random.default_rng(seed).integers(3, vocabulary, count).tolist()


def torch_logits(model: Any, tokens: Sequence[int]) -> np.ndarray:
    """float32 [len(tokens), vocabulary] from transformers."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([list(tokens)])).logits[0].float().numpy()


def worst_difference(expected: np.ndarray, actual: np.ndarray) -> float:
    """The largest difference as a part of the range of what is expected."""
    assert expected.shape == actual.shape
    spread = float(expected.max() - expected.min())
    assert spread > 0.1
    return float(np.abs(expected - actual).max()) / spread


def correlation(expected: np.ndarray, actual: np.ndarray) -> float:
    return float(np.corrcoef(expected.ravel(), actual.ravel())[0, 1])


def torch_hidden(model: Any, tokens: Sequence[int]) -> np.ndarray:
    """float32 [len(tokens), hidden]: the last layer's output."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([list(tokens)])).last_hidden_state[0].float().numpy()


def llama_logits(path: Path, tokens: Sequence[int]) -> np.ndarray:
    """float32 [len(tokens), vocabulary] from llama.cpp: one batch, KV cache in float32."""
    import llama_cpp

    with llama_context(path, len(tokens)) as (model, context):
        decode(context, tokens)
        size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        return _copy(llama_cpp.llama_get_logits(context), len(tokens), size)


def llama_embeddings(path: Path, tokens: Sequence[int], *, pooled: bool = False) -> np.ndarray:
    """What llama.cpp embeds: float32 [len(tokens), hidden], or [1, hidden] with the file's own
    pooling. Not normalized."""
    import llama_cpp

    pooling = llama_cpp.LLAMA_POOLING_TYPE_NONE
    if pooled:
        pooling = llama_cpp.LLAMA_POOLING_TYPE_UNSPECIFIED
    with llama_context(path, len(tokens), embeddings=True, pooling_type=pooling) as (
        model,
        context,
    ):
        decode(context, tokens)
        size = llama_cpp.llama_model_n_embd(model)
        if pooled:
            return _copy(llama_cpp.llama_get_embeddings_seq(context, 0), 1, size)
        return _copy(llama_cpp.llama_get_embeddings(context), len(tokens), size)


@contextmanager
def llama_context(path: Path, tokens: int, **settings: Any) -> Iterator[tuple[Any, Any]]:
    """An opened llama.cpp model and a context for that many tokens, both freed at the end."""
    import llama_cpp

    silence_llama()
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    assert model, f"llama.cpp cannot load {path}: {_LOG[-3:]}"
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = tokens
    parameters.n_threads = parameters.n_threads_batch = 2
    parameters.type_k = parameters.type_v = llama_cpp.GGML_TYPE_F32
    parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    for name, value in settings.items():
        setattr(parameters, name, value)
    context = llama_cpp.llama_init_from_model(model, parameters)
    try:
        assert context, f"llama.cpp cannot run {path}: {_LOG[-3:]}"
        yield model, context
    finally:
        if context:
            llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)


def decode(context: Any, tokens: Sequence[int]) -> None:
    """Have llama.cpp compute all tokens, in one batch."""
    import llama_cpp

    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = 1
        status = llama_cpp.llama_decode(context, batch)
        assert status == 0, f"llama_decode returned {status}: {_LOG[-3:]}"
    finally:
        llama_cpp.llama_batch_free(batch)


def _copy(pointer: Any, rows: int, columns: int) -> np.ndarray:
    return np.ctypeslib.as_array(pointer, shape=(rows, columns)).copy()


_LOG: list[str] = []
_CALLBACKS: list[Callable[..., None]] = []  # ctypes needs them to stay alive


def silence_llama() -> None:
    """Keep llama.cpp's log for error messages instead of printing it."""
    import llama_cpp

    if not _CALLBACKS:

        @llama_cpp.llama_log_callback
        def keep(level: int, text: bytes, data: ctypes.c_void_p) -> None:
            _LOG.append(text.decode(errors="replace").strip())
            del _LOG[:-20]

        _CALLBACKS.append(keep)
        llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))


def heed_interruptions() -> None:
    """A process in the background is born deaf to Ctrl-C, one under nohup to the end of its
    terminal, and so are their children."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
