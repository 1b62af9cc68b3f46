"""`qconvert compare`: what files answer to the same prompts, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qconvert.cli import options, render
from qconvert.errors import PartError
from qconvert.machine.watcher import ANEW

if TYPE_CHECKING:
    from rich.text import Text

    from qconvert.evaluation.answers.answer import AnswerSettings, Responses
    from qconvert.evaluation.answers.shown import Shown
    from qconvert.text.prompts import Prompt


def compare(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="GGUF files, and directories of safetensors, quantized or not; hub ids too.",
        ),
    ],
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A .txt file with one prompt a line, a .md file with one under each heading, or "
            "a .jsonl file with `prompt` or `messages` in each line; by default, eight of our own.",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The original; by default, the file with the most bits per weight.",
        ),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A PEFT adapter that is merged into the original."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Of each answer.")] = 128,
    temperature: Annotated[
        float,
        typer.Option(
            min=0, max=100, metavar="X", help="Of the sampled answers; 0 leaves them out."
        ),
    ] = 0.7,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the sampled answers.")] = 0,
    threads: options.Cores = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write a .md, .html or .json file."),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what each FILE answers to the same prompts, from the original down to the fewest bits.

    GGUF files are run by llama.cpp, directories by transformers, each through its own chat
    template. Every prompt is answered greedily and by sampling with the same noise for all; where
    an answer first departs from the original's is marked.

    \b
    Examples:
      qconvert compare model-*.gguf --reference ./model
      qconvert compare model-q8_0.gguf model-q2_k.gguf --prompts mine.txt -o answers.html
      qconvert compare ./model ./model-w4a16 --json | jq '.files[].agreement'
    """
    from qconvert import api
    from qconvert.evaluation.answers.shown import as_data

    with render.watching(quiet, "tokens", ANEW) as watcher:
        found = api.compare(
            files,
            prompts=prompts,
            reference=reference,
            adapter=adapter,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            threads=threads,
            output=output,
            watcher=watcher,
        )
    if as_json:
        render.print_json(as_data(found.prompts, found.files, found.settings))
    elif output is None:
        _print(found.prompts, found.files, found.settings)
    elif not quiet:
        render.show_path(output)
    _tell_problems(found.files)


def _print(
    prompts: "Sequence[Prompt]", found: "Sequence[Responses]", settings: "AnswerSettings"
) -> None:
    """Tables on standard output: the files, and the answers to each prompt."""
    from qconvert.evaluation.answers import shown

    kinds = shown.kinds(found)
    rows = []
    for number, one in enumerate(found):
        agreed = [shown.agreement_text(found, number, kind) for kind in kinds]
        first = ["the original", *agreed[1:]] if number == 0 else agreed
        bits = f"{one.bits_per_weight:.2f}"
        rows.append((one.path, one.kind, bits, one.runtime, *first))
    same = (f"same, {kind}" for kind in kinds)
    render.print_table(("file", "type", ">bits per weight", "runtime", *same), rows)
    for number, prompt in enumerate(prompts):
        topic = f"{number + 1}. {prompt.topic}".rstrip()
        render.show(f"{topic}\n{prompt.text}")
        by_kind = [shown.show(found, kind, number) for kind in kinds]
        answers = [
            (f"{one.kind}\n{one.path}", *map(_cell, cells))
            for one, *cells in zip(found, *by_kind, strict=True)
        ]
        render.print_table(("", *kinds), answers, prose=True)
    render.show(shown.how(settings, found))
    render.show(f"{shown.MARK} stands where an answer first departs from the original's.")


def _cell(shown: "Shown | None") -> "Text":
    from rich.text import Text

    from qconvert.evaluation.answers.shown import MARK

    if shown is None:
        return Text("no answer", style="red")
    text = Text(render.printable(shown.same))
    if shown.departure is not None:
        text.append(MARK, style="bold red")
        text.append(render.printable(shown.rest), style="yellow")
    return text.append(f"\n({shown.remark})", style="dim")


def _tell_problems(found: "Sequence[Responses]") -> None:
    """Files that did not answer, at last, where they are seen.

    Raises:
        PartError: there are some.
    """
    failed = [one for one in found if one.problem]
    for one in failed[1:]:
        render.say_error(f"{one.problem}")
    if failed:
        raise PartError(failed[0].problem, "the other files have answered")
