"""Digests of what every type and scheme writes, to see that a change of the code changes no file.

    python tests/benchmarks/golden.py record golden.json
    python tests/benchmarks/golden.py compare golden.json

Generated models of every family go through the command line, as a user's would: without and with a
calibration, in shards, several at once, with overrides, with tied and untied outputs, to GGUF and
back, calibration files and importance matrices. Floating point differs between machines: a table
holds for the machine that recorded it.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROGRAM = "import sys; from qconvert.cli.app import main; sys.exit(main())"
TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

TINY = (
    *("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q4_k_m", "iq4_nl"),
    *("w8a8", "w4a16", "fp8"),
)
PLAIN = (
    *("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m"),
    *("q4_k_s", "q4_1", "q4_0", "iq4_nl", "iq4_xs", "mxfp4_moe", "q3_k_l", "q3_k_m", "q3_k_s"),
    *("iq3_m", "iq3_s", "q2_k", "tq2_0", "tq1_0"),
    *("w8a8", "fp8", "w8a16", "w7a16", "w6a16", "w5a16", "w4a16", "w3a16", "w2a16"),
    *("nvfp4a16", "mxfp4a16"),
)
STARVED = ("iq3_xs", "iq3_xxs", "q2_k_s", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s")
"""Types that need the importance of weights."""
CALIBRATION = ("--window", "64", "--tokens", "1024")
FAMILIES = (
    ("llama", True),
    ("llama", False),
    ("mistral", False),
    ("mixtral", False),
    ("qwen2", True),
    ("qwen3", True),
    ("qwen3_moe", False),
    ("gemma3", True),
    ("phi3", False),
    ("gpt2", True),
    ("olmo2", False),
    ("granite", True),
    ("smollm3", True),
    ("bert", False),
)
WIDE = (
    ("llama", True),
    ("llama", False),
    ("qwen3_moe", False),
    ("gemma3", True),
    ("phi3", False),
    ("gpt2", True),
    ("mixtral", False),
)
VARIANTS: tuple[tuple[str, ...], ...] = (
    ("-t", "w8a8", "--asymmetric"),
    ("-t", "w8a16", "--group-size", "32"),
    ("-t", "w4a16", "--group-size", "channel", "--asymmetric"),
    ("-t", "w4a16", "--lm-head", "--embeddings", "--weight-range", "mse"),
    ("-t", "w4a16", "--weight-range", "percentile", "--percentile", "99.5"),
    ("-t", "fp8", "--strategy", "tensor"),
    ("-t", "fp8", "--strategy", "block", "--max-shard-size", "1M"),
    ("-t", "w8a16", "--override", "*.down_proj=w4a16", "--keep", "*.o_proj"),
    ("-t", "q4_k_m", "--override", "blk.*.ffn_down.weight=q6_k", "--keep", "*.attn_q.weight"),
    ("-t", "q4_k_m", "--pure"),
    ("-t", "q4_k_m", "--output-type", "q8_0", "--embedding-type", "q5_0"),
    ("-t", "q5_k_m", "--split-max-size", "1M"),
)
CALIBRATED: tuple[tuple[str, ...], ...] = (
    ("-t", "w8a8", "--smooth", "auto"),
    ("-t", "w8a8", "--smooth", "0.5", "--activations", "static"),
    ("-t", "fp8", "--activations", "static", "--activation-range", "mse"),
    ("-t", "w8a8", "--activations", "static", "--activation-range", "percentile"),
    ("-t", "w8a8", "--activations", "static", "--activation-range", "entropy"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("table", type=Path)
    parser.add_argument("--only", default="", help="names that hold this")
    arguments = parser.parse_args()
    table = dict(sorted(_table(arguments.only)))
    if arguments.action == "record":
        arguments.table.write_text(json.dumps(table, indent=1) + "\n")
        print(f"{len(table)} entries")
        return 0
    before = json.loads(arguments.table.read_text())
    if arguments.only:
        before = {
            name: value
            for name, value in before.items()
            if name.split("/")[0] in {found.split("/")[0] for found in table}
        }
    changed = [name for name in before.keys() | table.keys() if before.get(name) != table.get(name)]
    for name in sorted(changed):
        print(f"{name}: {before.get(name, '-')[:60]} -> {table.get(name, '-')[:60]}")
    print(f"{len(table)} entries, {len(changed)} differ")
    return 1 if changed else 0


def _table(only: str) -> Iterator[tuple[str, str]]:
    models = [(family, tied, False) for family, tied in FAMILIES]
    models += [(family, tied, True) for family, tied in WIDE]
    models = [model for model in models if only in _name(*model)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        paths = [_write(Path(folder), *model) for model in models]
        for found in pool.map(_entries, paths):
            yield from found


def _name(family: str, tied: bool, wide: bool) -> str:
    return f"{family}-{'tied' if tied else 'untied'}-{'wide' if wide else 'tiny'}"


def _write(folder: Path, family: str, tied: bool, wide: bool) -> Path:
    from writing_models import write_model

    changes: dict[str, object] = {"tied": tied}
    if wide:
        layers = "n_layer" if family == "gpt2" else "num_hidden_layers"
        changes |= {"wide": True, layers: 4}
    path = folder / _name(family, tied, wide)
    if family == "bert":
        from common import save_model

        save_model(family, path)
        return path
    return write_model(path, family=family, **changes)


def _entries(model: Path) -> list[tuple[str, str]]:
    """Everything that one model becomes, by the names of the files."""
    out = model.parent / f"{model.name}.out"
    wide = model.name.endswith("wide")
    run = _Run(model, out)
    types = PLAIN if wide else TINY
    bare = ["--no-vocabulary"] if "bert" in model.name else []
    found = run("plain", "quantize", model, *_typed(types), *bare, "-o", f"{out}/")
    if "bert" in model.name:
        return found
    text = model.parent / f"{model.name}.txt"
    text.write_text(_sample())
    calibration = model.parent / f"{model.name}.calib.safetensors"
    found += run("calibrate", "calibrate", model, "--data", text, *CALIBRATION, "-o", calibration)
    found += run.file("calibrate", calibration)
    matrix = model.parent / f"{model.name}.imatrix.gguf"
    found += run("imatrix", "export", calibration, "-o", matrix)
    found += run.file("imatrix", matrix)
    given = ("-c", calibration, "-o", f"{out}/")
    types = (*PLAIN, *STARVED) if wide else TINY
    found += run("calibrated", "quantize", model, *_typed(types), *given)
    found += run(
        "matrix", "quantize", model, *_typed(("q4_k_m", "iq2_xs")), "-c", matrix, "-o", f"{out}/"
    )
    if wide:
        for options in VARIANTS:
            name = " ".join(options)
            found += run(
                name,
                "quantize",
                model,
                *options,
                "-o",
                out / "one.gguf" if options[1].startswith("q") else out / "one",
            )
    for options in CALIBRATED if wide else CALIBRATED[:1]:
        found += run(
            " ".join(options), "quantize", model, *options, "-c", calibration, "-o", out / "one"
        )
    for type_ in ("f16", "q4_0", "q4_k_m") if wide else ("q8_0",):
        middle = model.parent / f"{model.name}.{type_}.gguf"
        run("middle", "quantize", model, "-t", type_, "-o", middle)
        found += run(f"back {type_}", "export", middle, "-o", out / "back")
        found += run(
            f"again {type_}", "quantize", middle, *_typed(("q8_0", "w8a8")), "-o", f"{out}/"
        )
        middle.unlink(missing_ok=True)
    found += run("container", "export", model, "--dtype", "bf16", "-o", out / "same.gguf")
    return found


class _Run:
    """Runs the program on one model; what it has written is digested and removed."""

    def __init__(self, model: Path, out: Path) -> None:
        self.model, self.out = model, out

    def __call__(self, name: str, *arguments: object) -> list[tuple[str, str]]:
        self.out.mkdir(exist_ok=True)
        command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=TESTS.parent, check=False
        )
        prefix = f"{self.model.name}/{name}"
        found = [(prefix, f"exit {done.returncode} {self._told(done)}")]
        for path in sorted(self.out.rglob("*")):
            if path.is_file():
                found.append((f"{prefix}/{path.relative_to(self.out)}", _digest(path)))
        if name != "middle":
            shutil.rmtree(self.out)
        return found

    def file(self, name: str, path: Path) -> list[tuple[str, str]]:
        return [(f"{self.model.name}/{name}/file", _digest(path))] if path.exists() else []

    def _told(self, done: subprocess.CompletedProcess[str]) -> str:
        """What a failed command says; nothing of one that worked."""
        if not done.returncode:
            return ""
        return done.stderr.replace(str(self.model.parent), "").strip()


def _typed(types: Sequence[str]) -> list[str]:
    return [word for type_ in types for word in ("-t", type_)]


def _sample() -> str:
    """Text that is the same everywhere: words of the tests' tokenizers."""
    from tokenizer_oracles import corpus

    return "\n\n".join(corpus())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
