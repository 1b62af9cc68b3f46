"""Habits of other tools: a command line that llama-quantize, convert_hf_to_gguf.py or
mlx_lm.convert would take is answered with the one that does the same here."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperCommand
from typer.exceptions import TyperException

from qconvert.errors import UsageError

Spelling = Callable[[str], list[str]]

SPELLINGS: dict[str, Spelling] = {
    "--imatrix": lambda file: ["-c", file],
    "--tensor-type": lambda pair: ["--override", f"*{pair.lower().replace('=', '*=', 1)}"],
    "--output-tensor-type": lambda kind: ["--output-type", kind.lower()],
    "--token-embedding-type": lambda kind: ["--embedding-type", kind.lower()],
    "--outfile": lambda path: ["-o", path],
    "--outtype": lambda kind: ["-t", kind.lower()],
    "--hf-path": lambda model: [model],
    "--mlx-path": lambda path: ["-o", path],
    "--q-bits": lambda bits: ["-t", f"mlx{bits}"],
    "--q-group-size": lambda size: ["--group-size", size],
}
"""Options with a value."""

FLAGS = {
    "--leave-output-tensor": ["--keep", "output.weight"],
    "--allow-requantize": [],
    "--keep-split": ["--split-max-size", "5G"],
}
"""Options without one. Sources that are quantized already are read in any case."""

ABSENT = {
    "--override-kv": "metadata is taken from the model; gguf-py's gguf_set_metadata changes it",
    "--prune-layers": "qconvert prune MODEL --layers N leaves out those that matter least, before",
}
"""Options that have no counterpart, and what to do instead."""


class QuantizeCommand(TyperCommand):
    """The command `quantize`: `--calibrate` may stand without a text, and the command lines of
    other tools are translated."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        said = []
        for arg, following in zip(args, [*args[1:], "--"], strict=False):
            said.append(arg)
            if arg == "--calibrate" and following.startswith("-") and following != "-":
                said.append("self")
        try:
            return super().parse_args(ctx, list(said))
        except TyperException as error:
            valued = {
                name
                for option in self.params
                if not getattr(option, "is_flag", False)
                for name in option.opts
                if name.startswith("-")
            }
            name = getattr(error, "option_name", None)  # of an option that is none here
            if name not in (None, *SPELLINGS, *FLAGS, *ABSENT):
                raise
            if translated := translate(said, valued):
                line = shlex.join(["qconvert", "quantize", *translated])
                raise UsageError(error.format_message(), f"write: {line}") from error
            raise


def translate(args: Sequence[str], valued: set[str]) -> list[str]:
    """The command line in the words of `quantize`; empty where it was not another tool's.

    Args:
        args: what stands behind `quantize`.
        valued: its own options that have a value.

    Raises:
        UsageError: it has an option that nothing here does.
    """
    options: list[str] = []
    positional: list[str] = []
    foreign = False
    rest = [part for arg in args for part in _halves(arg)]
    while rest:
        arg = rest.pop(0)
        if arg in ABSENT:
            raise UsageError(f"quantize has no {arg}", ABSENT[arg])
        if arg in FLAGS:
            options += FLAGS[arg]
            foreign = True
        elif arg in SPELLINGS and rest:
            spelled = SPELLINGS[arg](rest.pop(0))
            (options if len(spelled) > 1 else positional).extend(spelled)
            foreign = True
        elif arg.startswith("-") and arg != "-":
            options += [arg, rest.pop(0)] if arg in valued and rest else [arg]
        else:
            positional.append(arg)
    if len(positional) > 1:
        ordered = _by_meaning(positional)
        return [*ordered, *options] if ordered else []
    return [*positional, *options] if foreign else []


def _halves(arg: str) -> list[str]:
    """`--option=value` of another tool as two words."""
    name, equals, value = arg.partition("=")
    return [name, value] if equals and name in SPELLINGS else [arg]


def _by_meaning(positional: Sequence[str]) -> list[str]:
    """MODEL, OUTPUT, TYPE and a number of threads in any order, as llama-quantize takes them;
    empty where they cannot be told apart."""
    from qconvert.plan.gguf.file_types import FILE_TYPES
    from qconvert.plan.safetensors.schemes import DIRECTORIES

    known = {*FILE_TYPES, *DIRECTORIES}
    types = [name for name in positional if name.lower() in known and not Path(name).exists()]
    threads = [word for word in positional if word.isdigit()]
    paths = [word for word in positional if word not in types and word not in threads]
    is_output = len(paths) == 2 and (types or paths[1].endswith(".gguf"))
    if not (len(paths) == 1 or is_output) or len(threads) > 1:
        return []
    found = [paths[0]]
    for name in types:
        found += ["-t", name.lower()]
    found += ["-o", paths[1]] if len(paths) == 2 else []
    return found + (["--threads", threads[0]] if threads else [])
