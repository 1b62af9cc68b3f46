"""The formats to try, by name."""

from qconvert.formats.safetensors.types import WeightFormat

INTEGERS = {
    "w8 channel": WeightFormat("int-quantized", "int", 8, "channel"),
    "w8 channel asymmetric": WeightFormat("int-quantized", "int", 8, "channel", symmetric=False),
    "w8 group": WeightFormat("int-quantized", "int", 8, "group", 32),
    "w8 tensor": WeightFormat("int-quantized", "int", 8, "tensor"),
    **{
        f"w{bits} packed group": WeightFormat("pack-quantized", "int", bits, "group", 32)
        for bits in range(2, 9)
    },
    **{
        f"w{bits} packed asymmetric": WeightFormat(
            "pack-quantized", "int", bits, "group", 32, symmetric=False
        )
        for bits in range(2, 9)
    },
    "w4 packed channel": WeightFormat("pack-quantized", "int", 4, "channel"),
    "w3 packed channel asymmetric": WeightFormat(
        "pack-quantized", "int", 3, "channel", symmetric=False
    ),
    "w4 packed tensor": WeightFormat("pack-quantized", "int", 4, "tensor"),
}
FLOATS = {
    "fp8 tensor": WeightFormat("float-quantized", "float", 8, "tensor"),
    "fp8 channel": WeightFormat("float-quantized", "float", 8, "channel"),
    "fp8 block": WeightFormat("float-quantized", "float", 8, "block", block=(128, 128)),
    "nvfp4": WeightFormat("nvfp4-pack-quantized", "float", 4, "group", 16),
    "mxfp4": WeightFormat("mxfp4-pack-quantized", "float", 4, "group", 32),
}
FORMATS = {**INTEGERS, **FLOATS}
