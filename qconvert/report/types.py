"""What a report shows: plain data, made of what was measured; how it looks is said elsewhere."""

from dataclasses import dataclass, field
from typing import Literal

from qconvert.evaluation.divergence.types import Divergence
from qconvert.evaluation.sensitivity.measure import Sensitivity
from qconvert.evaluation.speed.measure import Speed


@dataclass(frozen=True)
class Row:
    """One file.

    Attributes:
        name: what it is stored as: "Q4_K_M", "w8a8".
        path: from the report's folder.
        nbytes: of its files.
        bits_per_weight: 8 * bytes of tensors / weights.
        backend: what computed its logits.
        perplexity, perplexity_error, perplexity_ratio, correlation, divergence, same_top,
        rms_delta_p: as in `qconvert.evaluation.divergence.types.FileScores`.
        command: makes the file again, for a shell.
        notices: what the user should know of it.
        speed: where it was measured.
    """

    name: str
    path: str
    nbytes: int
    bits_per_weight: float
    backend: str
    perplexity: float
    perplexity_error: float
    perplexity_ratio: float
    correlation: float
    divergence: Divergence
    same_top: float
    rms_delta_p: float
    command: str = ""
    notices: tuple[str, ...] = ()
    speed: Speed | None = None


@dataclass(frozen=True)
class Original:
    """The model that the files are made of.

    Attributes:
        name: for people.
        nbytes: of its weights as they are stored.
        bits_per_weight: of its weights as they are stored.
        dtype: what most of them are, "BF16".
        perplexity: of the text.
        fingerprint: that of its checkpoint.
        speed: where it was measured.
    """

    name: str
    nbytes: int
    bits_per_weight: float
    dtype: str
    perplexity: float
    fingerprint: str
    speed: Speed | None = None


@dataclass(frozen=True)
class Answer:
    """What one model said.

    Attributes:
        name: the row's, or that of the original.
        text: the answer.
        departs: the character at which it first differs from the original's; None where it does
            not.
        note: what kept it from answering, or an empty text.
    """

    name: str
    text: str
    departs: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Conversation:
    """One prompt and every model's answer, the original's first."""

    prompt: str
    topic: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Wish:
    """What the user asked of the file to take.

    Attributes:
        under: bytes that it may have.
        within: how far its perplexity may be from the original's, a share.
    """

    under: int | None = None
    within: float | None = None


@dataclass(frozen=True)
class Choice:
    """The file to take.

    Attributes:
        row: None where no file is as the user wished.
        rule: why this one, for people: "the smallest file whose ...".
        kind: what decided.
    """

    row: Row | None
    rule: str
    kind: Literal["wish", "usual", "closest"] = "usual"


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        original: the model.
        rows: every file, in the order of their sizes, the largest first.
        choice: the file to take.
        data: the text, for people.
        window: tokens of each window.
        scored: tokens that were scored.
        bound: how far the compact cache may have moved a mean divergence; 0 where exact.
        surer: by (larger file, smaller file), names of rows, the share of bootstrap samples in
            which the first has the smaller mean divergence.
        made: how it was made: labels and values, in order.
        notices: what the reader should know before trusting the figures.
        sensitivity: of one file; None where it was not measured.
        sensitivity_of: that file's name.
        conversations: empty where none were held.
        about_answers: how the answers came to be, a sentence.
        wish: what the choice had to meet.
    """

    original: Original
    rows: tuple[Row, ...]
    choice: Choice
    data: str
    window: int
    scored: int
    bound: float = 0.0
    surer: dict[tuple[str, str], float] = field(default_factory=dict)
    made: tuple[tuple[str, str], ...] = ()
    notices: tuple[str, ...] = ()
    sensitivity: Sensitivity | None = None
    sensitivity_of: str = ""
    conversations: tuple[Conversation, ...] = ()
    about_answers: str = ""
    wish: Wish = field(default_factory=Wish)

    def takes(self, row: Row) -> bool:
        """Whether a row is that of the file to take."""
        return self.choice.row is not None and row.path == self.choice.row.path
