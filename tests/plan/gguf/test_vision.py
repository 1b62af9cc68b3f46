"""Which types the tensors of a vision part have: those of llama.cpp's converter."""

import pytest

from qconvert.plan.gguf.vision import vision_format

# name, shape, then what it is in a file of f32, f16, bf16 and q8_0
GOLDEN = (
    ("v.patch_embd.weight", (96, 3, 8, 8), "F32 F16 F32 F32"),
    ("v.patch_embd.weight.1", (96, 3, 8, 8), "F32 F16 F32 F32"),
    ("v.patch_embd.bias", (96,), "F32 F32 F32 F32"),
    ("v.position_embd.weight", (36, 96), "F32 F32 F32 F32"),
    ("v.blk.0.ln1.weight", (96,), "F32 F32 F32 F32"),
    ("v.blk.0.attn_q.weight", (96, 96), "F32 F16 BF16 Q8_0"),
    ("v.blk.0.attn_q.input_max", (1,), "F32 F32 F32 F32"),
    ("v.blk.0.ffn_down.weight", (1152, 4304), "F32 F16 BF16 F16"),
    ("v.deepstack.8.fc1.weight", (384, 384), "F32 F16 BF16 Q8_0"),
    ("mm.patch_merger.weight", (96, 384), "F32 F16 F32 F32"),
    ("mm.input_projection.weight", (64, 96), "F32 F16 BF16 Q8_0"),
    ("v.token_embd.img_break", (64,), "F32 F32 F32 F32"),
)


@pytest.mark.parametrize(("name", "shape", "formats"), GOLDEN, ids=[line[0] for line in GOLDEN])
def test_types(name: str, shape: tuple[int, ...], formats: str) -> None:
    bases = ("F32", "F16", "BF16", "Q8_0")
    found = [vision_format(name, shape, base) for base in bases]
    assert " ".join(choice.format for choice in found) == formats
    assert [choice.fell_back for choice in found] == [bool(choice.reason) for choice in found]


def test_some_tensors_have_one_type() -> None:
    assert vision_format("mm.input_projection.weight", (64, 96), "Q8_0", "F16").format == "F16"
    assert vision_format("mm.input_projection.weight", (64, 96), "F32", "F16").format == "F32"
