"""How far directories for MLX are from the original, whoever has written them, all in one run.

    python tests/benchmarks/mlx_directories.py ORIGINAL TEXT DIRECTORY... [--tokens 4096]

MLX itself dequantizes the weights, to float32; what they compute is measured by `qconvert evaluate`
in torch, for MLX's products of quantized weights are slow on a CPU. Of dense models alone, whose
weights have the same names in transformers and in mlx-lm.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def restore(directory: Path, folder: Path) -> Path:
    """The same model in float32, as transformers reads it."""
    path = folder / directory.name
    path.mkdir()
    config = json.loads((directory / "config.json").read_text())
    stored = mx.load(str(directory / "model.safetensors"))
    usual = {key: config["quantization"][key] for key in ("group_size", "bits", "mode")}
    weights = {}
    for name, array in stored.items():
        stem, _, part = name.rpartition(".")
        if part in ("scales", "biases"):
            continue
        if f"{stem}.scales" in stored and part == "weight":
            about = {"mode": "affine", **config["quantization"].get(stem, usual)}
            others = [stored[f"{stem}.{kind}"] for kind in ("scales", "biases")
                      if f"{stem}.{kind}" in stored]  # fmt: skip
            wide = [o if o.dtype == mx.uint8 else o.astype(mx.float32) for o in others]
            array = mx.dequantize(array, *wide, **about, dtype=mx.float32)
        weights[name] = array.astype(mx.float32)
    mx.save_safetensors(str(path / "model.safetensors"), weights, {"format": "pt"})
    for key in ("quantization", "quantization_config"):
        del config[key]
    (path / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    for name in FILES:
        if (directory / name).exists():
            shutil.copy(directory / name, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("original", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("directories", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=4096)
    options = parser.parse_args()
    program = str(Path(sys.executable).with_name("qconvert"))
    if not Path(program).exists():
        program = shutil.which("qconvert") or "qconvert"
    with TemporaryDirectory() as folder:
        restored = [restore(path, Path(folder)) for path in options.directories]
        command = [program, "evaluate", *map(str, restored), "--backend", "torch"]
        command += ["--reference", str(options.original), "--data", str(options.text)]
        command += ["--tokens", str(options.tokens)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
