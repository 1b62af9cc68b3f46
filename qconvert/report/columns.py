"""The columns of the table: on the page, in the terminal, and in the files for programs."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qconvert.evaluation.speed.measure import Speed, describe_speed
from qconvert.report import figures
from qconvert.report.choosing import front
from qconvert.report.types import Original, Report, Row


@dataclass(frozen=True)
class Column:
    """A column of the page's table."""

    label: str
    unit: str = ""
    sorted: bool = False


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and what it is sorted by; an empty text goes last."""

    text: str
    value: str = ""
    note: str = ""


COLUMNS = (
    Column("file"),
    Column("size", sorted=True),
    Column("bits per", "weight"),
    Column("KL divergence", "mean, nats"),
    Column("99% are", "below"),
    Column("99.9%", "below"),
    Column("same top", "token"),
    Column("RMS of", "\N{GREEK CAPITAL LETTER DELTA}p"),
    Column("perplexity"),
    Column("against", "original"),
)

SPEED = (
    Column("written", "tokens/s"),
    Column("read", "tokens/s"),
    Column("memory", "peak"),
)


def has_speed(report: Report) -> bool:
    """Whether any speed was measured."""
    return report.original.speed is not None or any(row.speed is not None for row in report.rows)


def columns_of(report: Report) -> tuple[Column, ...]:
    """The columns that have something in them."""
    return COLUMNS + (SPEED if has_speed(report) else ())


def row_cells(row: Row, *, speed: bool) -> list[Cell]:
    """The cells behind a file's name.

    Args:
        speed: with those of speed.
    """
    divergence = row.divergence
    error = figures.error_of(divergence.standard_error)
    return [
        Cell(figures.size(row.nbytes), str(row.nbytes)),
        _cell(row.bits_per_weight, figures.number(row.bits_per_weight)),
        _cell(divergence.mean, figures.nats(divergence.mean), error),
        _cell(divergence.p99, figures.nats(divergence.p99)),
        _cell(divergence.p999, figures.nats(divergence.p999)),
        _cell(row.same_top, figures.fixed_percent(row.same_top, 1)),
        _cell(row.rms_delta_p, figures.fixed_percent(row.rms_delta_p)),
        _cell(row.perplexity, figures.number(row.perplexity)),
        _cell(row.perplexity_ratio, figures.fixed_percent(row.perplexity_ratio - 1, signed=True)),
        *(_speed_cells(row.speed) if speed else ()),
    ]


def original_cells(original: Original, *, speed: bool) -> list[Cell]:
    """The same of the original; it is no distance from itself."""
    none = Cell(figures.MISSING)
    return [
        Cell(figures.size(original.nbytes)),
        Cell(figures.number(original.bits_per_weight)),
        *[none] * 5,
        Cell(figures.number(original.perplexity)),
        none,
        *(_speed_cells(original.speed) if speed else ()),
    ]


def _speed_cells(speed: Speed | None) -> list[Cell]:
    if speed is None:
        return [Cell(figures.MISSING)] * 3
    generated, prompt = speed.generated_per_second.median, speed.prompt_per_second.median
    return [
        _cell(generated, figures.rate(generated)),
        _cell(prompt, figures.rate(prompt)),
        _cell(float(speed.peak_bytes), figures.size(speed.peak_bytes)),
    ]


def _cell(value: float, text: str, note: str = "") -> Cell:
    return Cell(text, f"{value:.9g}" if math.isfinite(value) else "", note)


def as_data(report: Report) -> dict[str, Any]:
    """The table and the choice, for JSON; a figure that is no number is null."""
    best = front(report.rows)
    choice = report.choice
    original = {**asdict(report.original), "speed": _speed_as_data(report.original.speed)}
    data: dict[str, Any] = _finite(
        {
            "model": original.pop("name"),
            "original": original,
            "data": report.data,
            "window": report.window,
            "scored_tokens": report.scored,
            "divergence_bound": report.bound,
            "choice": {
                "name": choice.row.name if choice.row else None,
                "path": choice.row.path if choice.row else None,
                "rule": choice.rule,
            },
            "files": [_row_as_data(row, on_front=row in best) for row in report.rows],
            "notices": list(report.notices),
        }
    )
    return data


def _row_as_data(row: Row, *, on_front: bool) -> dict[str, Any]:
    data = asdict(row)
    data["bytes"] = data.pop("nbytes")
    data["kl_divergence"] = data.pop("divergence")
    data["speed"] = _speed_as_data(row.speed)
    order = ("name", "path", "bytes", "bits_per_weight", "backend", "kl_divergence")
    return {**{key: data.pop(key) for key in order}, **data, "pareto": on_front}


def _speed_as_data(speed: Speed | None) -> dict[str, Any] | None:
    return describe_speed(speed) if speed is not None else None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value


def as_csv(report: Report) -> str:
    """The table, one line a file, with every figure."""
    lines = [_flat(one) for one in as_data(report)["files"]]
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _flat(data: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{key}_")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            found[before + key] = _cell_text("; ".join(map(str, value)))
        elif value is not None or not before:
            found[before + key] = _cell_text(value) if isinstance(value, str) else value
    return found


def _cell_text(text: str) -> str:
    """No formula: spreadsheets run what begins like one."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
