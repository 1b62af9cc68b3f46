"""A smaller model, trained to say what a larger one says."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qconvert.api.calibrating import texts
from qconvert.api.types import SILENT, TOKENS, WINDOW, Where, opened, run_of
from qconvert.errors import PlanError, UsageError
from qconvert.machine.watcher import Watcher

if TYPE_CHECKING:
    from qconvert.checkpoint import Checkpoint
    from qconvert.run.distilling import Distilled


def distill(
    student: Where | None,
    teacher: Where | None,
    data: Where | Sequence[Where],
    output: Where | None,
    *,
    like: Where | None = None,
    tokens: int = 4 * TOKENS,
    hours: float | None = None,
    rate: float = 0.01,
    lora: int | None = None,
    next_token: float = 0.0,
    hidden: float = 0.0,
    window: int = WINDOW,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    force: bool = False,
    watcher: Watcher = SILENT,
) -> "Distilled":
    """Train a model to foretell what a larger one foretells, and write it as a plain directory.

    Args:
        student: the smaller model, a directory or a hub id; None with `like`.
        teacher: the model to learn from, with the student's tokenizer.
        data: what to learn on, a text or several, as `calibrate` takes them.
        output: the directory to write.
        like: a config.json: begin with a student of these sizes.
        tokens: of the text, to learn from.
        hours: learn for about so long, in several rounds.
        rate: how far a weight moves in a step at most, in parts of its tensor's usual size.
        lora: train what is added to each matrix at this rank, and merge it at the end.
        next_token, hidden: weights of two more things to learn: the text's next token, and what
            leaves the teacher's blocks.
        seed: of draw and order.
        force: replace what is there and is something else.

    Raises:
        UsageError: something is not named, or named twice.
        PlanError: the two read other tokens, or their sizes do not fit what is asked for.
        UnsupportedError: a model cannot be trained here.
        OutputError: it cannot be written, or something is there.
    """
    from qconvert.model.open import open_model
    from qconvert.run.distilling import Distilling, check_place
    from qconvert.run.distilling import distill as run_distilling
    from qconvert.run.training.fresh import fresh_student, remove_fresh
    from qconvert.run.training.loss import Losses
    from qconvert.text.sample import draw_sample

    if teacher is None:
        raise UsageError("no teacher is given", "name one with --teacher")
    if (student is None) == (like is None):
        raise UsageError(
            "a student is a model or --like, and not both" if student else "no student is given",
            "name a directory, or a config.json with --like",
        )
    named = texts(data)
    if not named:
        raise UsageError("no text is given to learn on", "name one with --data")
    if output is None:
        raise UsageError("no directory is named for the result", "name one with -o")
    path = Path(output)
    large = opened(teacher, watcher, None)
    small = None if student is None else opened(student, watcher, None)
    run = replace(run_of(threads, watcher, device), force=force)
    check_place(path, [one.path for one in (small, large) if one], run)
    if small is not None:
        _check_tokenizers(small, large)
    sample = draw_sample(
        named, small or large, tokens=tokens, window=window, seed=seed, watcher=watcher
    )
    how = Distilling(tokens, hours, rate, seed=seed, lora=lora, losses=Losses(next_token, hidden))
    master = open_model(large)
    if like is not None:
        small = fresh_student(Path(like), master, path, seed)
    assert small is not None
    made = run_distilling(open_model(small), master, sample.tokens, path, how, run)
    if like is not None:
        remove_fresh(path)
    return replace(made, data=sample.source)


def _check_tokenizers(small: "Checkpoint", large: "Checkpoint") -> None:
    """Refuse two models that read other tokens.

    Raises:
        PlanError: the message names the first token that differs.
    """
    from qconvert.text.tokenizer import first_difference, has_tokenizer, load_tokenizer

    if not has_tokenizer(large):
        return
    found = first_difference(load_tokenizer(small), load_tokenizer(large))
    if found:
        raise PlanError(
            f"{small.source} and {large.source} have different tokenizers: {found}",
            "a student learns from a teacher that reads the same tokens",
        )
