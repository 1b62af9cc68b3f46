"""The parts of README.md and of the pages beside it that the program itself writes.

    python tests/readme.py    writes them anew

Each stands between `<!-- NAME -->` and `<!-- end -->`.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from checkpoints import LLAMA_8B, write_llama

from qconvert.model.types import Family

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "examples").glob("*.md")))

BLOCK = re.compile(r"(<!-- (?P<name>[a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)

LOADS = {
    "F32 F16 BF16": "llama.cpp and all that builds on it",
    "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0": "the same; Q4_0 and Q8_0 load in OpenVINO GenAI 2026.4 too",
    "Q2_K Q3_K Q4_K Q5_K Q6_K": "the same; fastest on most machines",
    "IQ4_NL IQ4_XS": "the same; smallest at four bits",
    "IQ3_XXS IQ3_S IQ2_XXS IQ2_XS IQ2_S": "the same; fewest bits, with a calibration",
    "IQ1_S IQ1_M": "the same; for what must fit at any price",
    "TQ1_0 TQ2_0": "the same; for models trained with ternary weights",
    "MXFP4": "the same; for models trained with such experts",
    "NVFP4": "the same since March 2026; fast on Blackwell GPUs",
}

FROM_GGUF = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
"""The families that transformers reads from a GGUF file as they are."""


def help_text(*command: str) -> str:
    """What `--help` prints, on any machine alike."""
    keep = {key: value for key, value in os.environ.items() if key not in ("CI", "FORCE_COLOR")}
    settings = {"TERMINAL_WIDTH": "100", "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    program = str(Path(sys.executable).with_name("qconvert"))
    done = subprocess.run(
        [program, *command, "--help"],
        env=keep | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.rstrip() for line in done.stdout.strip("\n").splitlines()]
    return "```\n" + "\n".join(lines).strip("\n") + "\n```\n"


def types_table() -> str:
    """Every file type and what an 8B Llama weighs in it."""
    from qconvert.checkpoint import open_checkpoint
    from qconvert.inspection import look_at

    with tempfile.TemporaryDirectory() as folder:
        write_llama(Path(folder), LLAMA_8B, sparse=True)
        found = look_at(open_checkpoint(folder))
    lines = ["| type | Llama-3.1-8B | bits per weight |", "|---|---:|---:|"]
    for plan in sorted(found.plans, key=lambda plan: -plan.nbytes):
        name = plan.recipe.file_type.name
        lines.append(f"| `{name}` | {plan.nbytes / 1e9:.2f} GB | {plan.bits_per_weight:.2f} |")
    return "\n".join(lines) + "\n"


WEIGHTS = {
    "w8a8": ("int8, a scale for each row", "int8, a scale for each token or (static) one"),
    "fp8": ("float8, a scale for each row, tensor or block", "float8, the same"),
    "nvfp4a16": ("float4 in groups of 16", ""),
    "nvfp4a4": ("float4 in groups of 16", "float4 in groups of 16 within a stored range"),
    "mxfp4a16": ("float4 in groups of 32, scales powers of two", ""),
    **{
        f"gptq{bits}": (f"int{bits} in groups of 128, laid out as GPTQ", "")
        for bits in (2, 3, 4, 8)
    },
    "w4a8": ("int4 in groups of 128, in whole bytes", "int8, a scale for each token"),
    "w4afp8": ("int4 in groups of 128", "float8, a scale for each token"),
    "mxfp4a4": ("float4 in groups of 32, scales powers of two", "float4, the same"),
    **{
        f"lut{bits}": (f"{1 << bits} values for each tensor, in a plain checkpoint", "")
        for bits in (2, 3, 4, 6, 8)
    },
    "awq4": ("int4 in groups of 128 with zero points, laid out as AWQ", ""),
}


def schemes_table() -> str:
    """Every scheme and what the weights of an 8B Llama weigh in it."""
    from qconvert.checkpoint import open_checkpoint
    from qconvert.model.open import open_model
    from qconvert.plan.make import make_plan
    from qconvert.plan.recipe import Recipe
    from qconvert.plan.safetensors.clustered import packed_bytes
    from qconvert.plan.safetensors.schemes import LUT, SCHEMES

    lines = ["| scheme | weights | activations | Llama-3.1-8B |", "|---|---|---|---:|"]
    with tempfile.TemporaryDirectory() as folder:
        write_llama(Path(folder), LLAMA_8B, sparse=True)
        source = open_model(open_checkpoint(folder))
        for name in SCHEMES:
            plan = make_plan(source, Recipe(name))
            usual = f"int{name[1]} in groups of 128", ""
            if name == "w8a16":
                usual = "int8, a scale for each row", ""
            weights, activations = WEIGHTS.get(name, usual)
            size = f"{packed_bytes(plan.tensors) / 1e9:.2f} GB"
            if name in LUT:
                size = f"{plan.nbytes / 1e9:.2f} GB ({size} as codes and tables)"
            lines.append(f"| `{name}` | {weights} | {activations or 'as they are'} | {size} |")
    return "\n".join(lines) + "\n"


MLX_WEIGHTS = {
    "mlx-mxfp8": "float8 in groups of 32, scales powers of two",
    "mlx-mxfp4": "float4 in groups of 32, scales powers of two",
    "mlx-nvfp4": "float4 in groups of 16, scales float8",
}


def mlx_table() -> str:
    """Every type of MLX and what the weights of an 8B Llama weigh in it."""
    from qconvert.checkpoint import open_checkpoint
    from qconvert.model.open import open_model
    from qconvert.plan.make import make_plan
    from qconvert.plan.mlx.types import MLX
    from qconvert.plan.recipe import Recipe

    lines = ["| type | weights | Llama-3.1-8B | bits per weight |", "|---|---|---:|---:|"]
    with tempfile.TemporaryDirectory() as folder:
        write_llama(Path(folder), LLAMA_8B, sparse=True)
        source = open_model(open_checkpoint(folder))
        for name in MLX:
            plan = make_plan(source, Recipe(name))
            weights = MLX_WEIGHTS.get(name, f"int{name[-1]} in groups of 64, a scale and a bias")
            size = f"{plan.nbytes / 1e9:.2f} GB"
            lines.append(f"| `{name}` | {weights} | {size} | {plan.bits_per_weight:.2f} |")
    return "\n".join(lines) + "\n"


def loads_table() -> str:
    """What reads which formats; every format that can be written is in it."""
    from qconvert.formats import FORMATS

    listed = {name for names in LOADS for name in names.split()}
    if listed != set(FORMATS):
        raise ValueError(f"the table of formats is out of date: {listed ^ set(FORMATS)}")
    lines = ["| formats | loads in |", "|---|---|"]
    lines += [f"| {names.replace(' ', ', ')} | {where} |" for names, where in LOADS.items()]
    lines.append(
        "| directories of compressed-tensors | transformers, vLLM, SGLang; see their cards |"
    )
    lines.append(
        "| directories of GPTQ and AWQ | vLLM, SGLang, ExLlama (by layout); transformers with "
        "gptqmodel (by layout); of AWQ mlx-lm too |"
    )
    lines.append("| directories of MLX | mlx-lm, LM Studio and what builds on them |")
    known = ", ".join(FROM_GGUF.values())
    lines += [
        "",
        f"transformers 5.23 reads GGUF files by itself (`gguf_file=`) as they are of {known},",
        "without stretched positions; others it refuses, or computes something else. It loads the",
        "directory that `qconvert export` makes of a GGUF file. vLLM reads GGUF files by a plugin",
        "that is installed apart, on GPUs alone (`pip install vllm-gguf-plugin`).",
        "",
        "`--kv fp8` (or int8) stores scales for keys and values: transformers rounds by them, and",
        "vLLM and SGLang read those of fp8 (by layout). NVFP4 is written where llama.cpp",
        "multiplies with the number beside it: in Llama, Mistral, Mixtral, Qwen3, Qwen3-MoE and",
        "Cohere2. Else Q8_0 takes its place, and that is said.",
        "",
        "OpenVINO GenAI reads GGUF files of Llama, Qwen2 and Qwen3 with its own reader. By default",
        "it rounds keys, values and what goes into products, so that an answer can be another",
        "where two tokens are nearly as likely. Told not to (`KV_CACHE_PRECISION` and",
        "`INFERENCE_PRECISION_HINT` f32, `DYNAMIC_QUANTIZATION_GROUP_SIZE` 0), it wrote token for",
        "token what transformers writes with the same weights in f32: Q4_0 of",
        "SmolLM2-135M-Instruct, six prompts of 20 tokens.",
        "",
        "For phones, LiteRT's converter takes a plain checkpoint (by its documentation): the",
        "original, or the directory that `prune`, `distill`, `-t lut4` or `export` of a GGUF file",
        "writes. It quantizes by itself: `pip install litert-torch`, then",
        "`litert-torch export_hf --model=DIR --output_dir=OUT`.",
    ]
    return "\n".join(lines) + "\n"


def comes_back(family: Family) -> bool:
    """Whether a GGUF file of a family can be written as a directory: as itself, or as the family
    that it is to llama.cpp."""
    from qconvert.model.families import FAMILIES

    back = {family.name for family in FAMILIES if family.config}
    return family.config is not None or (family.name in back and not family.mark)


def families_table() -> str:
    """The classes of `config.json` by what can be made of them."""
    from qconvert.model.families import FAMILIES
    from qconvert.model.families.wrapped import OUTER
    from qconvert.model.mlx.families import FAMILIES as MLX_FAMILIES
    from qconvert.model.vision import BY_CLASS

    lines = [
        "| `architectures` in config.json | what it gives | GGUF | `--mmproj` | safetensors | MLX "
        "| back from GGUF |",
        "|---|---|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        classes = ", ".join(f"`{name}`" for name in family.classes)
        in_mlx = MLX_FAMILIES.keys() & set(family.classes)
        seen = sorted({BY_CLASS[name].name for name in family.classes if name in BY_CLASS})
        sees = ", ".join(f"`{name}`" for name in seen)
        told = ["yes" if is_so else "" for is_so in (True, in_mlx, comes_back(family))]
        start = f"| {classes} | {gives(family)} | `{family.name}` | {sees}"
        lines.append(f"{start} | {' | '.join(told)} |")
    texts = {name for family in FAMILIES for name in family.classes}
    others: dict[tuple[str, bool], list[str]] = {}
    for name in dict.fromkeys((*OUTER, *BY_CLASS)):
        if name not in texts:
            projector = f"`{BY_CLASS[name].name}`" if name in BY_CLASS else ""
            others.setdefault((projector, name in OUTER), []).append(f"`{name}`")
    for (projector, has_text), names in others.items():
        taken = f"{OF_IMAGES} | as that" if has_text else " | "
        made = "yes" if has_text else ""
        lines.append(f"| {', '.join(names)} | {taken} | {projector} | {made} | | |")
    lines.append("| any other class of transformers | | | | linear layers in blocks | | |")
    return "\n".join(lines) + "\n"


OF_IMAGES = "texts; of images its language model"


def gives(family: Family) -> str:
    """What a model of the family is for."""
    if family.mark == "classifier.output_labels":
        return "scores"
    if family.encoder:
        return "embeddings"
    sees = any(name.endswith("ForConditionalGeneration") for name in family.classes)
    return OF_IMAGES if sees else "texts"


CLASS_ENDING = re.compile(r"(For(CausalLM|ConditionalGeneration|MaskedLM|PreTraining)|LMHead.*)$")


def outlook_table() -> str:
    """The families by what can be made of them, for those who look for theirs."""
    from qconvert.model.families import FAMILIES
    from qconvert.model.mlx.families import FAMILIES as MLX_FAMILIES
    from qconvert.model.vision import BY_CLASS

    groups: dict[str, list[str]] = {}
    for family in FAMILIES:
        made = "GGUF, safetensors"
        made += ", MLX" if MLX_FAMILIES.keys() & set(family.classes) else ""
        made += "; back from GGUF" if comes_back(family) else ""
        name = CLASS_ENDING.sub("", family.classes[0]).removesuffix("Model").rstrip("_")
        groups.setdefault(made, []).append(f"`{name}`")
    lines = ["| what can be made | of the families |", "|---|---|"]
    lines += [f"| {made} | {', '.join(dict.fromkeys(names))} |" for made, names in groups.items()]
    seeing = dict.fromkeys(f"`{CLASS_ENDING.sub('', name).rstrip('_')}`" for name in BY_CLASS)
    lines.append(f"| what reads images (`export --mmproj`) | {', '.join(seeing)} |")
    return "\n".join(lines) + "\n"


COMMANDS = (
    "inspect",
    "calibrate",
    "quantize",
    "prune",
    "tune",
    "distill",
    "export",
    "evaluate",
    "compare",
    "report",
    "doctor",
)

PARTS: dict[str, Callable[[], str]] = {
    "help": help_text,
    **{f"help {command}": partial(help_text, command) for command in COMMANDS},
    "types": types_table,
    "schemes": schemes_table,
    "mlx": mlx_table,
    "loads": loads_table,
    "families": families_table,
    "outlook": outlook_table,
}


def refresh(text: str) -> str:
    """The text with every part written anew."""
    return BLOCK.sub(lambda match: match[1] + PARTS[match["name"]]() + match[3], text)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(refresh(path.read_text()))
