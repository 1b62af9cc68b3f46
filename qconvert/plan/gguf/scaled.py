"""Where llama.cpp multiplies with the float32 that lies beside an NVFP4 tensor.

It reads one for each linear layer in a block, whatever the architecture, and most architectures
leave it out of their feed-forward layers: such a file would be read, and compute something else.
Where a layer has a bias it refuses to run. So NVFP4 is written where the scale counts.
Source: llama.cpp of October 2026, src/models and `build_ffn` in src/llama-graph.cpp.
"""

from collections.abc import Collection

from qconvert.model.roles import block_number

FORMAT = "NVFP4"

STAND_IN = "Q8_0"
"""What tensors become whose scale would not count."""

ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output")
DENSE = ("ffn_gate", "ffn_up", "ffn_down")
EXPERTS = tuple(f"{name}_exps" for name in DENSE)

MULTIPLIED: dict[str, tuple[str, ...]] = {
    "llama": (*ATTENTION, *DENSE, *EXPERTS),
    "mistral3": (*ATTENTION, *DENSE, *EXPERTS),
    "qwen3": (*ATTENTION, *DENSE),
    "qwen3moe": (*ATTENTION, *EXPERTS),
    "cohere2": (*ATTENTION, *DENSE),
}
"""By architecture; of others none is known to be right in all layers."""


def lost_scale(name: str, architecture: str, names: Collection[str]) -> str:
    """Why a tensor's scale would not count; empty where it does.

    Args:
        names: of all tensors.
    """
    kind = name.removesuffix(".weight").rpartition(".")[2]
    if block_number(name) < 0 or not name.endswith(".weight"):
        return "llama.cpp has scales of NVFP4 in blocks alone"
    if kind not in MULTIPLIED.get(architecture, ()):
        return f"llama.cpp does not multiply {architecture}'s {kind} with a scale"
    if kind.startswith("ffn") and f"{name.removesuffix('.weight')}.bias" in names:
        return "llama.cpp has no scale where a feed-forward layer has a bias"
    return ""
