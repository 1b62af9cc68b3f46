"""What files answer to the same prompts."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qconvert.api.types import SILENT, Where, opened
from qconvert.errors import UsageError
from qconvert.machine.watcher import Watcher

if TYPE_CHECKING:
    from qconvert.evaluation.answers.answer import AnswerSettings, Responses
    from qconvert.text.prompts import Prompt

FORMS = (".md", ".html", ".json")


@dataclass(frozen=True)
class Comparison:
    """Answers side by side.

    Attributes:
        prompts: what was asked.
        files: each with its answers, the original first.
        settings: how the answers were written.
    """

    prompts: "tuple[Prompt, ...]"
    files: "tuple[Responses, ...]"
    settings: "AnswerSettings"


def compare(
    files: Where | Sequence[Where],
    *,
    prompts: Where | None = None,
    reference: Where | None = None,
    adapter: Where | None = None,
    max_tokens: int = 128,
    temperature: float = 0.7,
    seed: int = 0,
    threads: int | None = None,
    output: Where | None = None,
    watcher: Watcher = SILENT,
) -> Comparison:
    """Have files answer the same prompts, each in its own runtime.

    Args:
        files: GGUF files, directories of safetensors or hub ids.
        prompts: a .txt, .md or .jsonl file, as the command takes it; None for eight of our own.
        reference: the original; None takes the file with the most bits per weight.
        adapter: a directory of PEFT's, merged into the reference.
        max_tokens: of each answer.
        temperature, seed: of the sampled answers; 0 leaves them out.
        output: a .md, .html or .json file that gets the answers.

    Raises:
        UsageError: there is nothing to do, or an option does not fit.
        QconvertError: a file is no model that writes, its runtime is missing, or the original
            fails. Another that fails has a `problem` in place of answers.
        OutputError: the output cannot be written.
    """
    from qconvert.containers.place import check_output
    from qconvert.evaluation.answers.answer import AnswerSettings, answers, in_order, work_of
    from qconvert.run.executor import default_threads
    from qconvert.text.prompts import default_prompts, read_prompts

    place = None if output is None else Path(output)
    if place is not None:
        check_output(place)
        if place.suffix.lower() not in FORMS:
            raise UsageError(
                f"{place} is none of {', '.join(FORMS)}", "the ending says what is written"
            )
    if not math.isfinite(temperature):
        raise UsageError("--temperature is no number")
    named = [str(files)] if isinstance(files, str | Path) else [str(file) for file in files]
    asked = read_prompts(Path(prompts)) if prompts is not None else default_prompts()
    settings = AnswerSettings(threads or default_threads(), max_tokens, temperature, seed)
    with _original(reference, adapter, settings.threads, watcher) as (original, name):
        watcher.begin(work_of(len(in_order(named, original)), len(asked), settings), 0)
        found = answers(named, asked, settings, original=original, told=watcher.advance)
    if adapter is not None:
        found = (replace(found[0], path=name), *found[1:])
    comparison = Comparison(tuple(asked), found, settings)
    if place is not None:
        _write(place, comparison)
    return comparison


@contextmanager
def _original(
    reference: Where | None, adapter: Where | None, threads: int, watcher: Watcher
) -> Iterator[tuple[str | None, str]]:
    """Where the original is, and what it is called."""
    if adapter is None:
        name = None if reference is None else str(reference)
        yield name, name or ""
        return
    from qconvert.evaluation.answers.merged import merged

    if reference is None:
        raise UsageError(
            "--adapter is merged into the original, and none is named", "add --reference"
        )
    checkpoint = opened(reference, watcher, adapter)
    for notice in checkpoint.notices:
        watcher.note(notice)
    with merged(checkpoint, threads) as path:
        yield str(path), checkpoint.source


def _write(path: Path, found: Comparison) -> None:
    """In full or not at all."""
    from qconvert.containers.whole import write_whole
    from qconvert.evaluation.answers.page import page
    from qconvert.evaluation.answers.shown import json_text, markdown

    forms = {".md": markdown, ".html": page, ".json": json_text}
    text = forms[path.suffix.lower()](found.prompts, found.files, found.settings)
    write_whole(path, text.encode("utf-8", "replace"))
