"""What a report is made of: what the user asked for, and the files and the text it is about."""

from dataclasses import dataclass, field
from pathlib import Path

from qconvert.checkpoint import Checkpoint
from qconvert.evaluation.divergence.types import Subject
from qconvert.evaluation.runtimes.subject import BackendName
from qconvert.plan.types import Plan
from qconvert.report.measuring import Measured
from qconvert.report.records import Keep
from qconvert.report.types import Wish
from qconvert.text.types import Windows


@dataclass(frozen=True)
class Asked:
    """What the user asks for.

    Attributes:
        model: as the user named it.
        reference: what the files are held against, likewise; None for the model itself.
        types: of the files; empty for a ladder.
        folder: of the report.
        adapter: a directory of PEFT's, merged into the model.
        calibration: what `qconvert calibrate` wrote.
        ways: of each type also without it, without feedback, and with a budget of its bytes.
        data: the text; "self" for one that the model writes.
        tokens: of the text, from its beginning; None takes all.
        window: tokens of each window.
        prompts: a file of prompts; None for the usual ones.
        answer_tokens: of an answer, at most.
        wish: of the file to take.
        speed, answers, sensitivity: whether they are measured.
        vocabulary: refuse a model that has no tokenizer, where there are GGUF files.
        backend: what computes logits.
        device: where torch does.
        threads: cores to use.
        quiet: without the progress of downloads.
    """

    model: str
    types: tuple[str, ...]
    folder: Path
    reference: str | None = None
    adapter: Path | None = None
    calibration: Path | None = None
    ways: bool = False
    data: str = "self"
    tokens: int | None = None
    window: int = 512
    prompts: Path | None = None
    answer_tokens: int = 64
    wish: Wish = field(default_factory=Wish)
    speed: bool = True
    answers: bool = True
    sensitivity: bool = True
    vocabulary: bool = True
    backend: BackendName = "auto"
    device: str = "auto"
    threads: int = 1
    quiet: bool = False

    @property
    def original(self) -> tuple[str, Path | None]:
        """What the files are held against, and the adapter that is merged into it."""
        return (self.model, self.adapter) if self.reference is None else (self.reference, None)


@dataclass(frozen=True)
class Made:
    """The files, and the text that they are held against.

    Attributes:
        checkpoint: what the files are made of.
        reference: the original, which they are held against: mostly the same.
        made_of, fingerprint: what identifies the two, in this order.
        subject: the original, with what is told of its storage.
        planned: the files.
        files: the same, with digests.
        windows: the text.
        keep: what was measured.
    """

    checkpoint: Checkpoint
    reference: Checkpoint
    made_of: str
    fingerprint: str
    subject: Subject
    planned: tuple[Plan, ...]
    files: tuple[Measured, ...]
    windows: Windows
    keep: Keep

    @property
    def original(self) -> Measured:
        return Measured(self.reference.path, self.fingerprint)
