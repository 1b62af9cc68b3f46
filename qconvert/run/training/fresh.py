"""A student that begins anew: its configuration is all that is known of it.

    blocks and norms            as transformers begins them, drawn with a seed
    embeddings and projection   the teacher's, cut to the student's width

Training leaves the tables of tokens as they are, so they have to be of use from the beginning. Rows
of a narrower student are what the teacher's are along the directions in which they differ most: of
all tables of that width, those that lose least of the teacher's.

It is written beside the output, under a name that begins with a dot, as a plain directory with the
teacher's tokenizer, and goes when the output is there.
"""

import shutil
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from qconvert.checkpoint import Checkpoint, open_checkpoint
from qconvert.checkpoint.files import read_json_object
from qconvert.containers.folder import IDENTITY, is_of
from qconvert.containers.room import ELSEWHERE
from qconvert.containers.sizes import human_bytes
from qconvert.errors import OutputError, PlanError, UnsupportedError, first_line
from qconvert.machine.limits import read_limits, read_memory
from qconvert.model.assemble import assemble
from qconvert.model.open import Model
from qconvert.model.quiet import quiet_transformers
from qconvert.model.roles import Role
from qconvert.model.tokenizers.export import json_bytes
from qconvert.model.weights import Weight
from qconvert.plan.safetensors.files import small_files
from qconvert.run.transform import plain_config

TRAINED = 16
"""Bytes for each weight that is trained: itself, its gradient and two moments."""

DTYPES = ("float32", "float16", "bfloat16")


def fresh_folder(path: Path) -> Path:
    """Where the student of an output is meanwhile."""
    return path.with_name(f".{path.name}.fresh")


def remove_fresh(path: Path) -> None:
    """Of an output that is there, leave no student beside it."""
    shutil.rmtree(fresh_folder(path), ignore_errors=True)


def fresh_student(settings: Path, teacher: Model, path: Path, seed: int) -> Checkpoint:
    """Make the student, or find the one that an interrupted run has made.

    Args:
        settings: config.json, or the directory that has it.
        path: of the output.

    Raises:
        CheckpointError: the settings cannot be read.
        UnsupportedError: transformers cannot build the model, or the teacher is no directory.
        PlanError: the teacher has another vocabulary or fewer numbers for each token, or memory
            does not do.
        OutputError: no room.
    """
    import transformers

    if teacher.checkpoint.container != "huggingface":
        raise UnsupportedError(
            f"{teacher.checkpoint.source} is no Hugging Face directory, whose tokenizer a fresh "
            "student could have",
            "make one of it first: qconvert export",
        )
    settings = settings / "config.json" if settings.is_dir() else settings
    config = plain_config(read_json_object(settings))
    config.pop("auto_map", None)
    _check_config(config, teacher, settings)
    identity = sha256(
        repr((sorted(config.items()), seed, teacher.fingerprint, transformers.__version__)).encode()
    ).hexdigest()
    folder = fresh_folder(path)
    if not is_of(folder, identity):
        _write(folder, _built(config, teacher, settings, seed), config, teacher)
        (folder / IDENTITY).write_text(identity)
    return replace(open_checkpoint(str(folder)), source=settings.parent.name or settings.name)


def _check_config(config: Mapping[str, Any], teacher: Model, settings: Path) -> None:
    own, other = config.get("vocab_size"), teacher.config.get("vocab_size")
    if own != other:
        raise PlanError(
            f"{settings} has a vocabulary of {own!r:.40} tokens, and the teacher has {other!r:.40}",
            f'write "vocab_size": {other!r:.40}',
        )
    width, most = config.get("hidden_size"), teacher.config.get("hidden_size")
    if not isinstance(width, int) or not isinstance(most, int) or not 0 < width <= most:
        raise PlanError(
            f"{settings} has a hidden_size of {width!r:.40}, and the teacher {most!r:.40}",
            "a fresh student is as wide as its teacher or narrower",
        )


def _built(config: Mapping[str, Any], teacher: Model, settings: Path, seed: int) -> Any:
    """transformers' model with its first weights."""
    import torch

    with torch.device("meta"):
        planned = _model(config, teacher, settings)
    wanted = TRAINED * sum(p.numel() for p in planned.parameters())
    there = read_memory(read_limits()).total
    if wanted > there:
        raise PlanError(
            f"training {settings} takes at least {human_bytes(wanted)} of memory, and this machine "
            f"has {human_bytes(there)}",
            "choose a smaller student",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(config, teacher, settings)
    _put_tables(model, teacher, int(config["hidden_size"]))
    return model.to(getattr(torch, _dtype(config)))


def _dtype(config: Mapping[str, Any]) -> str:
    said = config.get("dtype") or config.get("torch_dtype")
    return said if said in DTYPES else "float32"


def _model(config: Mapping[str, Any], teacher: Model, settings: Path) -> Any:
    import torch
    import transformers

    auto = transformers.AutoModel if teacher.family.encoder else transformers.AutoModelForCausalLM
    try:
        with quiet_transformers():
            kind = transformers.CONFIG_MAPPING[config["model_type"]]
            return auto.from_config(kind.from_dict(deepcopy(dict(config))), dtype=torch.float32)
    except Exception as error:
        raise UnsupportedError(
            f"transformers {transformers.__version__} cannot build {settings}: {first_line(error)}",
            "the same configuration has to load with AutoModel.from_config",
        ) from error


def _put_tables(model: Any, teacher: Model, width: int) -> None:
    """The teacher's tables of tokens in place of the student's."""
    import torch

    embedding = _table(teacher, Role.EMBEDDING)
    output = _table(teacher, Role.OUTPUT)
    given = [one for one in (embedding, output) if one is not None]
    turned = directions(given, width) if width < given[0].shape[1] else None
    with torch.no_grad():
        for module, table in (
            (model.get_output_embeddings(), given[-1]),
            (model.get_input_embeddings(), embedding),  # last: where both are one, this is it
        ):
            if module is not None:
                module.weight.copy_(table if turned is None else table @ turned)


def directions(tables: list[Any], width: int) -> Any:
    """Along which the rows of tables [tokens, hidden] differ most, float32 [hidden, width],
    orthonormal; each table counts alike."""
    import torch

    moments = sum(t.double().T @ t.double() / t.double().square().sum() for t in tables)
    _, vectors = torch.linalg.eigh(moments)
    found = vectors[:, -width:].flip(1)
    largest = found.gather(0, found.abs().argmax(dim=0, keepdim=True))
    return (found * largest.sign()).float()


def _table(teacher: Model, role: Role) -> Any:
    """A table of the teacher's, float32 [tokens, hidden]; None where it has none of its own."""
    import torch

    def is_it(weight: Weight) -> bool:
        return weight.role is role and weight.gguf in ("token_embd.weight", "output.weight")

    found = next(filter(is_it, teacher.weights), None)
    if found is None:
        return None
    rows = assemble(found.map, teacher.checkpoint.tensors, 0, found.map.rows)
    return torch.from_numpy(rows)


def _write(folder: Path, model: Any, config: Mapping[str, Any], teacher: Model) -> None:
    named = {"architectures": [type(model).__name__], **config}
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with quiet_transformers():
            model.save_pretrained(folder)
        for name, data in small_files(teacher.checkpoint.path).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
        (folder / "config.json").write_bytes(json_bytes(named))
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}", ELSEWHERE) from error
