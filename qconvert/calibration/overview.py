"""A calibration at a glance: coverage, and the channels and tokens that stand out.

A channel stands out where its mean square is far above the median channel's of the same input: in
the residual stream a few do in every layer, and one range for all channels then rounds the others
away (T. Dettmers et al., "LLM.int8()", arXiv 2208.07339). A token stands out where its energy, the
sum of squares, is far above the median token's (M. Sun et al., "Massive activations in large
language models", arXiv 2402.17762).
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qconvert.calibration.types import (
    FEW_TOKENS,
    PER_OCTAVE,
    Calibration,
    InputStatistics,
    edges,
)

CHANNEL_RATIO = 100.0
"""Of mean squares: ten times the median channel's size."""

TOKEN_RATIO = 100.0
"""Of energies, to the median token's."""

SHARES = (0.5, 0.99, 0.999, 0.9999)
"""Of the absolute values of an input's elements."""

KINDS: Mapping[str, tuple[str, ...]] = {
    "attention input": ("attn_q", "attn_k", "attn_v", "attn_qkv"),
    "attention output": ("attn_output",),
    "ffn input": ("ffn_gate", "ffn_up", "ffn_gate_inp", "ffn_gate_shexp", "ffn_up_shexp"),
    "ffn down input": ("ffn_down", "ffn_down_shexp"),
    "expert input": ("ffn_gate_exps", "ffn_up_exps"),
    "expert down input": ("ffn_down_exps",),
    "output input": ("output", "token_embd", "cls"),
}
"""What an input is, by the GGUF names of its weights."""

RESIDUAL = ("attention input", "ffn input", "expert input", "output input")
"""Kinds whose channels are those of the residual stream: channel 5 is the same in every layer."""

OTHER = "other"

_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<part>[^.]+)\.weight")


@dataclass(frozen=True)
class Channel:
    """A channel that stands out.

    Attributes:
        matrix: the expert's number; -1 for an input that all share.
        ratio: of its mean square to the median channel's.
    """

    matrix: int
    channel: int
    rms: float
    absmax: float
    ratio: float


@dataclass(frozen=True)
class Tokens:
    """The tokens of an input that stand out.

    Attributes:
        number: how many there are.
        ratio: of the energy of the largest to the median token's.
        share: of the energy of all tokens.
        peak: the largest absolute value.
    """

    number: int
    ratio: float
    share: float
    peak: float


@dataclass(frozen=True)
class InputOverview:
    """One input.

    Attributes:
        layer: the block, or -1.
        kind: one of KINDS, or OTHER.
        rms: by channel, float64: of all experts together where these share channels, else of
            those that saw tokens, one behind the other.
        channels: those that stand out, the largest first.
        tokens: those that stand out; None where there are none.
        quantiles: absolute values below which SHARES of the elements are.
    """

    name: str
    statistics: InputStatistics
    layer: int
    kind: str
    rms: np.ndarray
    channels: tuple[Channel, ...]
    tokens: Tokens | None
    quantiles: tuple[float, ...]

    @property
    def count(self) -> int:
        """Tokens, counted once for each expert that saw them."""
        return int(self.statistics.count.sum())

    @property
    def spread(self) -> tuple[float, float, float]:
        """Median, 99% and the largest RMS of channels; zeros where no token was seen."""
        if not self.rms.size:
            return 0.0, 0.0, 0.0
        median, high, largest = np.quantile(self.rms, (0.5, 0.99, 1.0)).tolist()
        return median, high, largest

    @property
    def unseen(self) -> tuple[int, ...]:
        """Experts that saw no token."""
        return tuple(np.flatnonzero(self.statistics.count == 0).tolist())

    @property
    def rare(self) -> tuple[int, ...]:
        """Experts that saw some, but few."""
        count = self.statistics.count
        return tuple(np.flatnonzero((count > 0) & (count < FEW_TOKENS)).tolist())


@dataclass(frozen=True)
class Overview:
    """A calibration.

    Attributes:
        inputs: by layer, in the order of a block.
    """

    calibration: Calibration
    inputs: tuple[InputOverview, ...]

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The blocks that it has."""
        return tuple(sorted({one.layer for one in self.inputs if one.layer >= 0}))

    @property
    def distinct_tokens(self) -> int:
        """Entries of the vocabulary in the sample."""
        return len(np.unique(self.calibration.sample.tokens))

    @cached_property
    def experts(self) -> tuple[InputOverview, ...]:
        """The inputs of experts."""
        return tuple(one for one in self.inputs if one.statistics.matrices > 1)

    @cached_property
    def recurring(self) -> dict[str, dict[int, int]]:
        """By kind of input, in how many layers a channel of the residual stream stands out, the
        most frequent first."""
        found: dict[str, dict[int, int]] = {}
        for kind in RESIDUAL:
            layers: dict[int, set[int]] = defaultdict(set)
            for one in self.inputs:
                if one.kind == kind:
                    for channel in one.channels:
                        layers[channel.channel].add(one.layer)
            often = {channel: len(where) for channel, where in layers.items() if len(where) > 1}
            if often:
                found[kind] = dict(sorted(often.items(), key=lambda pair: (-pair[1], pair[0])))
        return found


def overview(calibration: Calibration) -> Overview:
    """What a calibration shows."""
    inputs = [_input(name, one) for name, one in calibration.inputs.items()]
    order = {kind: number for number, kind in enumerate((*KINDS, OTHER))}
    last = 1 + max((one.layer for one in inputs), default=0)
    inputs.sort(key=lambda one: (last if one.layer < 0 else one.layer, order[one.kind], one.name))
    return Overview(calibration, tuple(inputs))


def place(name: str) -> tuple[int, str]:
    """The block (-1 outside of them) and the kind of the input of a weight."""
    match = _NAME.fullmatch(name)
    if match is None:
        return -1, OTHER
    part = match["part"]
    kind = next((kind for kind, parts in KINDS.items() if part in parts), OTHER)
    return int(match["layer"]) if match["layer"] else -1, kind


def _input(name: str, statistics: InputStatistics) -> InputOverview:
    layer, kind = place(name)
    apart = statistics.matrices > 1 and kind not in RESIDUAL
    if apart:
        rows = np.flatnonzero(statistics.count)
        squares = statistics.sum_squares[rows] / statistics.count[rows, None].astype(np.float64)
        absmax = statistics.absmax[rows]
    else:
        rows = np.array([-1])
        total = max(float(statistics.count.sum()), 1.0)
        squares = statistics.sum_squares.sum(axis=0, dtype=np.float64, keepdims=True) / total
        absmax = statistics.absmax.max(axis=0, keepdims=True)
    return InputOverview(
        name,
        statistics,
        layer,
        kind,
        np.sqrt(squares).reshape(-1),
        _channels(rows, squares, absmax),
        _tokens(statistics),
        _quantiles(statistics),
    )


def _channels(rows: np.ndarray, squares: np.ndarray, absmax: np.ndarray) -> tuple[Channel, ...]:
    """squares, absmax: [rows, columns]."""
    if not squares.size:
        return ()
    medians = np.median(squares, axis=1, keepdims=True)
    # Where most channels are silent, the mean is what there is to compare with.
    usual = np.where(medians > 0, medians, squares.mean(axis=1, keepdims=True))
    ratios = np.divide(squares, usual, out=np.zeros_like(squares), where=usual > 0)
    which, channels = np.nonzero(ratios >= CHANNEL_RATIO)
    found = [
        Channel(int(rows[i]), int(j), float(squares[i, j] ** 0.5), float(absmax[i, j]), float(r))
        for i, j, r in zip(which, channels, ratios[which, channels], strict=True)
    ]
    return tuple(sorted(found, key=lambda one: (-one.ratio, one.matrix, one.channel)))


def _tokens(statistics: InputStatistics) -> Tokens | None:
    """Tokens of one bin of peaks count as alike."""
    numbers = statistics.peaks.sum(axis=0)
    energies = statistics.energies.sum(axis=0)
    seen = np.flatnonzero(numbers)
    if not seen.size or not energies.sum():
        return None
    means = energies[seen] / numbers[seen]
    order = np.argsort(means, kind="stable")
    middle = np.searchsorted(np.cumsum(numbers[seen][order]), (numbers.sum() + 1) // 2)
    usual = means[order][middle]
    large = means >= TOKEN_RATIO * usual
    if not usual or not large.any():
        return None
    number = int(numbers[seen][large].sum())
    share = float(energies[seen][large].sum() / energies.sum())
    return Tokens(number, float(means.max() / usual), share, float(statistics.absmax.max()))


def _quantiles(statistics: InputStatistics) -> tuple[float, ...]:
    """Upper edges of the bins, and no more than the largest value."""
    counts = statistics.histogram.sum(axis=0)
    total = int(counts.sum())
    if not total:
        return tuple(0.0 for _ in SHARES)
    bins = np.searchsorted(np.cumsum(counts), [share * total for share in SHARES])
    upper = edges(PER_OCTAVE)[1:][np.minimum(bins, len(counts) - 1)]
    largest = float(statistics.absmax.max())
    return tuple(min(float(value), largest) for value in upper)
