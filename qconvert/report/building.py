"""The story of a report: quantize, evaluate, time, ask, and put it all together.

Whatever is there already is left, and whatever was measured is kept, so that an interrupted run
goes on where it stopped, and one more type costs that one type.

    report.html              the page
    report.json  report.csv  the table
    divergence.png  .svg     the plots
    models/                  the files
    .measured/               what was measured
"""

import shlex
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from qconvert.checkpoint import Checkpoint, fingerprint, open_checkpoint
from qconvert.containers.sizes import write_size
from qconvert.errors import PlanError, QconvertError
from qconvert.evaluation.answers.answer import AnswerSettings, Responses, work_of
from qconvert.evaluation.answers.merged import merged
from qconvert.evaluation.divergence import bootstrap
from qconvert.evaluation.divergence.evaluate import Choices, evaluate
from qconvert.evaluation.runtimes.library import llama_name
from qconvert.evaluation.runtimes.settings import Settings
from qconvert.evaluation.runtimes.subject import BackendName, open_subject
from qconvert.evaluation.sensitivity.measure import Sensitivity
from qconvert.evaluation.speed.measure import STEPS, Speed
from qconvert.machine.watcher import Watcher
from qconvert.plan.fallbacks import fallback_lines
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.schemes import is_scheme
from qconvert.plan.types import Plan
from qconvert.report import notes
from qconvert.report.choosing import choose
from qconvert.report.measuring import (
    Measured,
    Scored,
    find_answers,
    find_scores,
    find_sensitivity,
    find_speed,
    find_windows,
)
from qconvert.report.models import make_models, name_of, other_ways, outputs_of
from qconvert.report.records import Keep, content_digest, make_folder
from qconvert.report.request import Asked, Made
from qconvert.report.types import (
    Original,
    Report,
    Row,
)
from qconvert.run.quantize import plan_outputs
from qconvert.run.types import Run
from qconvert.text.prompts import Prompt, default_prompts, read_prompts

MODELS, MEASURED = "models", ".measured"
Watching = Callable[[str], AbstractContextManager[Watcher]]
"""A watcher for as long as one stage takes; the argument is what is counted."""


def build(asked: Asked, watching: Watching) -> Report:
    """Make the files and measure them.

    Raises:
        QconvertError: a file cannot be made or evaluated. Where speed, answers or sensitivity
            cannot be had, the report says so.
    """
    prompts = _prompts(asked) if asked.answers else ()
    made = make(asked, watching)
    scored = _scores(asked, made, watching)
    notices: list[str] = []
    speeds = _speeds(asked, made, watching, notices)
    said = _said(asked, made, prompts, watching, notices)
    shared = notes.shared([one.scores.notices for one in scored])
    rows = tuple(
        _row(asked, made, number, one, speeds.get(made.files[number].path), shared)
        for number, one in enumerate(scored)
    )
    order = sorted(range(len(rows)), key=lambda n: (-rows[n].nbytes, rows[n].name))
    choice = choose(rows, asked.wish)
    original = _original(asked, made, scored[0].reference_perplexity, speeds)
    report = Report(
        original=original,
        rows=tuple(rows[number] for number in order),
        choice=choice,
        data=made.windows.data,
        window=int(made.windows.tokens.shape[1]),
        scored=made.windows.scored,
        bound=max(one.scores.divergence.bound for one in scored),
        surer=_surer(scored, rows, order),
        conversations=notes.conversations(prompts, said, rows, order),
        about_answers=notes.about_answers(asked) if said else "",
        wish=asked.wish,
    )
    closest = choice.row or min(rows, key=lambda row: row.divergence.mean)
    parts = _parts(asked, made, rows.index(closest), watching, notices)
    return replace(
        report,
        sensitivity=parts,
        sensitivity_of=closest.name if parts else "",
        notices=(*notes.notices(asked, made), *shared, *notices),
        made=notes.how(asked, made, report),
    )


def make(asked: Asked, watching: Watching) -> Made:
    """Read the text, and quantize what is not up to date.

    Raises:
        QconvertError: see `read_windows`, `plan_outputs` and `write_outputs`.
    """
    progress = False if asked.quiet else None
    checkpoint = open_checkpoint(asked.model, progress=progress, adapter=asked.adapter)
    reference, made_of = checkpoint, fingerprint(checkpoint)
    mark = made_of
    if asked.reference is not None:
        reference = open_checkpoint(asked.reference, progress=progress)
        mark = fingerprint(reference)
    name, adapter = asked.original
    subject = open_subject(name, adapter=adapter)
    keep = Keep(asked.folder / MEASURED)
    outputs = outputs_of(asked.types, asked.folder / MODELS, asked.calibration)
    options = tuple(replace(one, vocabulary=asked.vocabulary) for one in outputs)
    with watching("weights") as watcher:  # before the model writes a text: what cannot be made
        run = Run(asked.threads, watcher, asked.device)
        planned = plan_outputs(checkpoint, options, run)
        if asked.ways:
            planned += planned_besides(checkpoint, planned, run)
    with watching("tokens") as watcher:
        windows = find_windows(
            keep, reference, mark, asked.data, asked.tokens, asked.window, watcher.note
        )
    with watching("weights") as watcher:
        make_folder(asked.folder / MODELS)
        found = make_models(planned, asked.threads, watcher, asked.device)
        if found:
            watcher.note(f"up to date: {', '.join(path.name for path in found)}")
    targets = [one.target for one in planned]
    files = [
        Measured(target.path, content_digest(tuple(file.path for file in target.weight_files)))
        for target in targets
    ]
    return Made(
        checkpoint,
        reference,
        made_of,
        mark,
        subject,
        tuple(planned),
        tuple(files),
        windows,
        keep,
    )


def planned_besides(checkpoint: Checkpoint, planned: Sequence[Plan], run: Run) -> list[Plan]:
    """The same types made in other ways; where a type cannot do without a calibration, not that."""
    found: list[Plan] = []
    for recipe in other_ways(planned):
        try:
            found += plan_outputs(checkpoint, [recipe], run)
        except PlanError as error:
            run.watcher.note(f"{name_of(recipe)} is left out: {error.message}")
    return found


def _prompts(asked: Asked) -> tuple[Prompt, ...]:
    return read_prompts(asked.prompts) if asked.prompts else default_prompts()


def _scores(asked: Asked, made: Made, watching: Watching) -> list[Scored]:
    """Of every file, in order."""
    found = []
    for file, planned in zip(made.files, made.planned, strict=True):
        backend = backend_for(asked.backend, planned.recipe.type)

        def measure(path: Path = file.path, backend: BackendName = backend) -> Scored:
            settings = Settings(asked.device, threads=asked.threads)
            name, adapter = asked.original
            choices = Choices(backend=backend, settings=settings, adapter=adapter)
            with watching("tokens") as watcher:
                done = evaluate(name, made.windows, [path], choices, watcher)
            return Scored(done.files[0], done.reference_perplexity)

        library = "" if is_scheme(planned.recipe.type) else llama_name()
        text = (made.windows.digest, made.windows.first)
        about = (made.fingerprint, *text, backend, asked.device, library)
        found.append(find_scores(made.keep, file, about, measure))
    return found


def backend_for(wanted: BackendName, type_: str) -> BackendName:
    """The one that is wanted, where it runs such a file."""
    unfit = "llama.cpp" if is_scheme(type_) else "transformers"
    return "auto" if wanted == unfit else wanted


def _speeds(asked: Asked, made: Made, watching: Watching, notices: list[str]) -> dict[Path, Speed]:
    found: dict[Path, Speed] = {}
    if not asked.speed:
        return found
    failed: list[tuple[str, str]] = []
    machine = f"{notes.this_machine()} {llama_name()}"
    files = (made.original, *made.files)
    with watching("steps") as watcher:
        watcher.begin(STEPS * len(files), 0)
        for number, file in enumerate(files, 1):
            heard = _Steps(watcher, STEPS, f"{file.path.name}, {number} of {len(files)}")
            try:
                found[file.path] = find_speed(
                    made.keep, file, machine, asked.threads, watcher.note, heard.one
                )
            except QconvertError as error:
                failed.append((file.path.name, error.message))
            heard.rest()
    notices += [f"No speed of {line}." for line in notes.told_once(failed)]
    return found


def _said(
    asked: Asked,
    made: Made,
    prompts: Sequence[Prompt],
    watching: Watching,
    notices: list[str],
) -> list[Responses]:
    """The original's answers first."""
    if not asked.answers:
        return []
    settings = AnswerSettings(asked.threads, asked.answer_tokens, temperature=0.0)
    files = (made.original, *made.files)
    each = work_of(1, len(prompts), settings)
    found = []
    with watching("tokens") as watcher:
        watcher.begin(each * len(files), 0)
        for number, file in enumerate(files, 1):
            heard = _Steps(watcher, each, f"{file.path.name}, {number} of {len(files)}")
            at = None
            if number == 1 and asked.original[1] is not None:
                at = merged(made.reference, asked.threads, asked.folder)
            found.append(
                find_answers(made.keep, file, prompts, settings, watcher.note, heard.several, at)
            )
            heard.rest()
            if found[0].problem:
                notices.append(f"There are no answers: {found[0].problem}.")
                return []
    failed = [(Path(one.path).name, one.problem) for one in found if one.problem]
    notices += [f"No answers of {line}." for line in notes.told_once(failed)]
    return found


@dataclass
class _Steps:
    """A file's share of the work that a watcher is told of.

    Attributes:
        left: of the share.
        name: shown beside it.
    """

    watcher: Watcher
    left: int
    name: str

    def one(self, step: str) -> None:
        self._advance(1, f"{self.name}: {step}")

    def several(self, steps: int, path: str) -> None:
        self._advance(steps, self.name)

    def rest(self) -> None:
        """What was found and not measured is done, too."""
        self._advance(self.left, self.name)

    def _advance(self, steps: int, shown: str) -> None:
        taken = min(steps, self.left)
        if taken:
            self.left -= taken
            self.watcher.advance(taken, shown)


def _parts(
    asked: Asked, made: Made, number: int, watching: Watching, notices: list[str]
) -> Sensitivity | None:
    if not asked.sensitivity:
        return None
    file = made.files[number]
    with watching("blocks") as watcher:
        try:
            return find_sensitivity(
                made.keep,
                made.checkpoint,
                made.made_of,
                file,
                made.windows,
                asked.threads,
                asked.device,
                watcher.note,
                _steps(watcher, file.path.name),
            )
        except QconvertError as error:
            what = f"Which parts of {file.path.name} cost most is not known"
            notices.append(f"{what}: {error.message}.")
            return None


def _steps(watcher: Watcher, name: str) -> Callable[[int, int], None]:
    """Tells a watcher of steps, of which so many are done of so many."""
    before = 0

    def tell(done: int, total: int) -> None:
        nonlocal before
        if not before:
            watcher.begin(total, 0)
        watcher.advance(done - before, name)
        before = done

    return tell


def _row(
    asked: Asked,
    made: Made,
    number: int,
    scored: Scored,
    speed: Speed | None,
    shared: Collection[str],
) -> Row:
    """Args:
    shared: notices that are told of several files at once.
    """
    options, scores = made.planned[number].recipe, scored.scores
    return Row(
        name=name_of(options),
        path=scores.path.relative_to(asked.folder).as_posix(),
        nbytes=scores.nbytes,
        bits_per_weight=scores.bits_per_weight,
        backend=scores.backend,
        perplexity=scores.perplexity,
        perplexity_error=scores.perplexity_error,
        perplexity_ratio=scores.perplexity_ratio,
        correlation=scores.correlation,
        divergence=scores.divergence,
        same_top=scores.same_top,
        rms_delta_p=scores.rms_delta_p,
        command=command(asked, options),
        notices=(
            *fallback_lines(made.planned[number])[:1],
            *(line for line in scores.notices if line not in shared),
        ),
        speed=speed,
    )


def command(asked: Asked, recipe: Recipe) -> str:
    """What makes a file again, for a shell, in the folder where it is run."""
    words = ["qconvert", "quantize", asked.model]
    if asked.adapter is not None:
        words += ["--adapter", str(asked.adapter)]
    if recipe.under is None or is_scheme(recipe.type):
        words += ["-t", recipe.type]
    if recipe.under is not None:
        words += ["--under", write_size(recipe.under)]
    if recipe.calibration is not None:
        words += ["-c", str(recipe.calibration)]
    if not recipe.feedback:
        words.append("--no-feedback")
    if not asked.vocabulary and not is_scheme(recipe.type):
        words.append("--no-vocabulary")
    return shlex.join(words)


def _original(asked: Asked, made: Made, perplexity: float, speeds: dict[Path, Speed]) -> Original:
    subject = made.subject
    return Original(
        name=made.reference.source,
        nbytes=subject.nbytes,
        bits_per_weight=subject.bits_per_weight,
        dtype=subject.kind,
        perplexity=perplexity,
        fingerprint=made.fingerprint,
        speed=speeds.get(made.reference.path),
    )


def _surer(
    scored: Sequence[Scored], rows: Sequence[Row], order: Sequence[int]
) -> dict[tuple[str, str], float]:
    """Of neighbours in size, how sure it is that the larger is the closer."""
    shares = bootstrap.compare([scored[n].scores.tokens.divergence for n in order])
    return {
        (rows[order[i]].name, rows[order[j]].name): share
        for (i, j), share in shares.items()
        if j == i + 1
    }
