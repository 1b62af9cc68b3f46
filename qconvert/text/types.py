"""Text as models read it: windows of tokens."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Sample:
    """Windows of tokens.

    Attributes:
        tokens: int32 [windows, window].
        source: what the text was, in words: "calibration.txt", "org/name, split train".
        seed: of the draw.
    """

    tokens: np.ndarray
    source: str
    seed: int


@dataclass(frozen=True)
class Windows:
    """A text, tokenized by the reference's tokenizer and cut.

    Attributes:
        tokens: int32 [windows, window].
        data: what the user named, for people: "development.txt".
        digest: hexadecimal hash of the tokens.
        texts: what the tokens were made of, one behind the other; empty where there was no text.
    """

    tokens: np.ndarray
    data: str
    digest: str
    texts: tuple[str, ...] = field(default=(), repr=False)

    @property
    def first(self) -> int:
        """The first position whose prediction is scored; the last is window - 2."""
        return int(self.tokens.shape[1]) // 2

    @property
    def targets(self) -> np.ndarray:
        """int32 [windows, scored]: the tokens that are predicted."""
        return self.tokens[:, self.first + 1 :]

    @property
    def scored(self) -> int:
        """How many tokens are scored in all."""
        return int(self.targets.size)
