"""Checkpoints of the shape of the largest models: headers alone, with holes for the weights."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

SHARD = 4 << 30


@dataclass(frozen=True)
class Latent:
    """A DeepSeek-V3: latent attention and many experts.

    Attributes:
        dense: how many of the first blocks have no experts.
    """

    layers: int
    dense: int
    experts: int
    heads: int
    vocabulary: int
    width: int = 7168
    ffn: int = 18432
    expert: int = 2048
    q_rank: int = 1536
    kv_rank: int = 512
    nope: int = 128
    rope: int = 64

    @property
    def config(self) -> dict:
        return {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            "hidden_size": self.width,
            "intermediate_size": self.ffn,
            "moe_intermediate_size": self.expert,
            "num_hidden_layers": self.layers,
            "first_k_dense_replace": self.dense,
            "moe_layer_freq": 1,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "n_routed_experts": self.experts,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "n_group": 8,
            "topk_group": 4,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "q_lora_rank": self.q_rank,
            "kv_lora_rank": self.kv_rank,
            "qk_nope_head_dim": self.nope,
            "qk_rope_head_dim": self.rope,
            "v_head_dim": self.nope,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 163840,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000,
            "rope_scaling": {
                "type": "yarn",
                "factor": 40,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 4096,
            },
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "bos_token_id": 0,
            "eos_token_id": 1,
        }

    def block(self, index: int) -> dict[str, tuple[int, ...]]:
        """Of one block, by the ends of their names."""
        width, head = self.width, self.nope + self.rope
        attention = {
            "q_a_proj": (self.q_rank, width),
            "q_a_layernorm": (self.q_rank,),
            "q_b_proj": (self.heads * head, self.q_rank),
            "kv_a_proj_with_mqa": (self.kv_rank + self.rope, width),
            "kv_a_layernorm": (self.kv_rank,),
            "kv_b_proj": (self.heads * 2 * self.nope, self.kv_rank),
            "o_proj": (width, self.heads * self.nope),
        }
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (width,),
            "post_attention_layernorm.weight": (width,),
        }
        shapes |= {f"self_attn.{name}.weight": shape for name, shape in attention.items()}
        if index < self.dense:
            return shapes | _mlp("mlp.", width, self.ffn)
        shapes["mlp.gate.weight"] = (self.experts, width)
        shapes["mlp.gate.e_score_correction_bias"] = (self.experts,)
        shapes |= _mlp("mlp.shared_experts.", width, self.expert)
        for expert in range(self.experts):
            shapes |= _mlp(f"mlp.experts.{expert}.", width, self.expert)
        return shapes

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        table = (self.vocabulary, self.width)
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": table}
        for index in range(self.layers):
            own = self.block(index).items()
            found |= {f"model.layers.{index}.{name}": shape for name, shape in own}
        return found | {"model.norm.weight": (self.width,), "lm_head.weight": table}


def _mlp(prefix: str, width: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}gate_proj.weight": (inner, width),
        f"{prefix}up_proj.weight": (inner, width),
        f"{prefix}down_proj.weight": (width, inner),
    }


LATENT_671B = Latent(61, 3, 256, 128, 129280)
LATENT_1T = Latent(61, 1, 384, 64, 163840)


def write_latent(folder: Path, shape: Latent) -> Path:
    """A directory whose files are holes behind their headers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape.config))
    where: dict[str, str] = {}
    header: dict[str, dict] = {}
    end = number = 0

    def close() -> None:
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        name = f"model-{number:05d}.safetensors"
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
        where.update(dict.fromkeys(header, name))
        header.clear()

    for name, dimensions in shape.shapes.items():
        # Of the real ones, the routers' biases alone are float32.
        dtype, size = ("F32", 4) if name.endswith("correction_bias") else ("BF16", 2)
        if header and end + size * prod(dimensions) > SHARD:
            close()
            end, number = 0, number + 1
        begin, end = end, end + size * prod(dimensions)
        header[name] = {"dtype": dtype, "shape": dimensions, "data_offsets": [begin, end]}
    close()
    index = json.dumps({"metadata": {}, "weight_map": where})
    (folder / "model.safetensors.index.json").write_text(index)
    return folder
