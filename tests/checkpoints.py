"""Llama checkpoints of any shape, in bf16 safetensors, written without torch.

Random ones for conversion, sparse ones (a hole in the file) where only shapes matter.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

SLAB = 1 << 22

BYTES = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
"""A tokenizer's cut into words, as GPT-2 has it."""


@dataclass(frozen=True)
class Llama:
    """A Llama's sizes."""

    width: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = True

    @property
    def config(self) -> dict:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.width,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.width // self.heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
        }

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensors by name; the embedding, the largest, last."""
        kv = self.width // self.heads * self.kv_heads
        found: dict[str, tuple[int, ...]] = {}
        for i in range(self.layers):
            block = f"model.layers.{i}."
            found |= {
                f"{block}self_attn.q_proj.weight": (self.width, self.width),
                f"{block}self_attn.k_proj.weight": (kv, self.width),
                f"{block}self_attn.v_proj.weight": (kv, self.width),
                f"{block}self_attn.o_proj.weight": (self.width, self.width),
                f"{block}mlp.gate_proj.weight": (self.ffn, self.width),
                f"{block}mlp.up_proj.weight": (self.ffn, self.width),
                f"{block}mlp.down_proj.weight": (self.width, self.ffn),
                f"{block}input_layernorm.weight": (self.width,),
                f"{block}post_attention_layernorm.weight": (self.width,),
            }
        found["model.norm.weight"] = (self.width,)
        found["model.embed_tokens.weight"] = (self.vocabulary, self.width)
        if not self.tied:
            found["lm_head.weight"] = (self.vocabulary, self.width)
        return found


TINY = Llama(256, 3, 512, 4, 2, 500)
LLAMA_465M = Llama(2048, 6, 8192, 16, 4, 49152)
LLAMA_8B = Llama(4096, 32, 14336, 32, 8, 128256, tied=False)


def write_llama(
    folder: Path,
    shape: Llama = TINY,
    *,
    tokenizer: bool = False,
    sparse: bool = False,
    shard: int = 4 << 30,
    seed: int = 0,
) -> Path:
    """A checkpoint directory; shards of about `shard` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, dimensions in shape.shapes.items():
        nbytes = 2 * prod(dimensions)
        if size and size + nbytes > shard:
            groups.append({})
            size = 0
        groups[-1][name] = dimensions
        size += nbytes
    random = np.random.default_rng(seed)
    where: dict[str, str] = {}
    for number, group in enumerate(groups):
        file = f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
        _write_shard(folder / file, group, None if sparse else random)
        where |= dict.fromkeys(group, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(shape.config))
    if tokenizer:
        from tokenizer_oracles import byte_level_directory

        byte_level_directory(folder, BYTES, size=shape.vocabulary, plain=())
    return folder


def _write_shard(
    path: Path, shapes: dict[str, tuple[int, ...]], random: np.random.Generator | None
) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if random is None:
            file.truncate(8 + len(text) + end)
            return
        for shape in shapes.values():
            mean, spread = (0.0, 0.02) if len(shape) > 1 else (1.0, 0.1)
            for start in range(0, prod(shape), SLAB):
                count = min(SLAB, prod(shape) - start)
                values = random.standard_normal(count, np.float32) * np.float32(spread)
                bits = (values + np.float32(mean)).view(np.uint32)
                file.write(((bits + 0x8000) >> 16).astype(np.uint16).tobytes())
