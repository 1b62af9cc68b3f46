"""The inputs of products as llama.cpp's CPU code has them.

It multiplies blocks of small integers, so it rounds the inputs of a product too, in blocks as long
as the weights' (`vec_dot_type` in ggml-cpu.c):

    weights                 inputs
    F16, BF16               the same type
    blocks of 256           256 int8 and a float32 scale     (Q8_K)
    shorter blocks          32 int8 and a float16 scale      (Q8_0, Q8_1)
    all others              as they are

The scale maps the largest magnitude to 127. In a file of 8 bits this costs more than the rounding
of the weights does, so divergences agree with llama.cpp's only with it. What Q8_1 adds for Q4_1 and
Q5_1, sums of blocks in float16, is left out: it changes single logits, and not how far they are.
"""

from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

TYPES = {"F16": "float16", "BF16": "bfloat16"}


def input_type(weights: str) -> str:
    """What llama.cpp makes of the inputs of weights of a type: "Q8_K" of "Q4_K"; empty where it
    takes them as they are."""
    length = GGML_QUANT_SIZES[GGMLQuantizationType[weights]][0]
    if length == 1:
        return weights if weights in TYPES else ""
    return "Q8_K" if length == 256 else "Q8_0"


def round_input(x: Any, kind: str) -> Any:
    """Values [..., columns] as they are after a way through an `input_type`, in the type and on the
    device that they came in."""
    import torch

    if kind in TYPES:
        return x.to(getattr(torch, TYPES[kind])).to(x.dtype)
    blocks = x.float().reshape(-1, GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0])
    scale = blocks.abs().amax(dim=1, keepdim=True) / 127
    codes = (blocks * torch.where(scale > 0, 1 / scale, 0)).round_()
    if kind == "Q8_0":
        scale = scale.half().float()
    return codes.mul_(scale).view(x.shape).to(x.dtype)
