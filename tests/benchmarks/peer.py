"""llama.cpp's two steps, as a user runs them: convert to a 16-bit GGUF, then quantize that.

The converter comes with the source distribution of llama-cpp-python, fetched once into the cache;
the quantizer is `llama_model_quantize` of the installed package.

    python tests/benchmarks/peer.py quantize IN.gguf OUT.gguf TYPE THREADS
"""

import subprocess
import sys
import tarfile
from pathlib import Path


def converter(cache: Path) -> Path:
    """The path of convert_hf_to_gguf.py, fetched if need be."""
    import llama_cpp

    version = llama_cpp.__version__
    folder = cache / f"llama_cpp_python-{version}"
    script = folder / "vendor" / "llama.cpp" / "convert_hf_to_gguf.py"
    if not script.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--dest", str(cache), f"llama-cpp-python=={version}"]
        subprocess.run(command, check=True)
        with tarfile.open(cache / f"llama_cpp_python-{version}.tar.gz") as archive:
            archive.extractall(cache, filter="data")
    return script


def convert_command(cache: Path, model: Path, out: Path) -> list[str]:
    script = converter(cache)
    return [sys.executable, str(script), str(model), "--outtype", "bf16", "--outfile", str(out)]


def quantize_command(source: Path, out: Path, kind: str, threads: int) -> list[str]:
    return [sys.executable, __file__, "quantize", str(source), str(out), kind, str(threads)]


def quantize(source: str, out: str, kind: str, threads: str) -> None:
    import llama_cpp

    from qconvert.plan.gguf.file_types import find_file_type

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = find_file_type(kind).ftype
    params.nthread = int(threads)
    code = llama_cpp.llama_model_quantize(source.encode(), out.encode(), params)
    sys.exit(code)


if __name__ == "__main__":
    quantize(*sys.argv[2:])
