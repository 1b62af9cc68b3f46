"""What `inspect` prints and draws of a calibration, and of an importance matrix."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median, median_low
from typing import TYPE_CHECKING, Any, Literal

from qconvert.cli import render
from qconvert.cli.inspect_checkpoint import show_facts
from qconvert.errors import UsageError, shorten

if TYPE_CHECKING:
    from qconvert.calibration.importance import Importance
    from qconvert.calibration.overview import Channel, InputOverview, Overview

CHANNELS_LISTED = 64
"""Of one input, in JSON; how many there are is said too."""

CHANNELS_SHOWN = 4
ROWS_SHOWN = 12
PLOTS: dict[str, Literal["png", "svg"]] = {".png": "png", ".svg": "svg"}


def plot_form(path: Path) -> Literal["png", "svg"]:
    """The kind of picture that a name asks for.

    Raises:
        UsageError: another one.
    """
    if path.suffix.lower() not in PLOTS:
        raise UsageError(f"{path} is neither a .png nor a .svg file", "name one of these")
    return PLOTS[path.suffix.lower()]


def write_plot(seen: "Overview", plot: Path) -> None:
    from qconvert.calibration.plot import draw
    from qconvert.containers.whole import write_whole

    write_whole(plot, draw(seen, plot_form(plot)))


def show(seen: "Overview", inputs: bool, plot: Path | None) -> None:
    """What `qconvert calibrate` wrote."""
    show_facts(seen.calibration.path.name, facts(seen))
    show_kinds(seen)
    show_recurring(seen)
    show_tokens(seen)
    if inputs:
        show_inputs(seen.inputs)
    if plot is not None:
        render.show_path(plot)


def as_data(seen: "Overview", plot: Path | None) -> dict[str, Any]:
    """The JSON form: all but the arrays."""
    calibration = seen.calibration
    windows, window = calibration.sample.tokens.shape
    return {
        "kind": "calibration",
        "source": calibration.path.name,
        "model": calibration.model,
        "fingerprint": calibration.fingerprint,
        "tokenizer": calibration.tokenizer,
        "version": calibration.version,
        "dtype": calibration.dtype,
        "sample": {
            "source": calibration.sample.source,
            "seed": calibration.sample.seed,
            "windows": windows,
            "window": window,
            "tokens": windows * window,
            "distinct_tokens": seen.distinct_tokens,
        },
        "layers": len(seen.layers),
        "weights": len(calibration.by_weight),
        "inputs": [input_data(one) for one in seen.inputs],
        "recurring_channels": {
            kind: [{"channel": number, "layers": count} for number, count in found.items()]
            for kind, found in seen.recurring.items()
        },
        "unseen_experts": experts_data(seen, "unseen"),
        "rare_experts": experts_data(seen, "rare"),
        "plot": str(plot) if plot else None,
    }


def input_data(one: "InputOverview") -> dict[str, Any]:
    from qconvert.calibration.overview import SHARES

    statistics, tokens = one.statistics, one.tokens
    usual, high, largest = one.spread
    return {
        "name": one.name,
        "weights": list(statistics.weights),
        "layer": one.layer if one.layer >= 0 else None,
        "kind": one.kind,
        "matrices": statistics.matrices,
        "channels": statistics.columns,
        "tokens": statistics.count.tolist(),
        "rms": {"median": usual, "p99": high, "max": largest},
        "minimum": float(statistics.minimum.min()),
        "maximum": float(statistics.maximum.max()),
        "absmax": float(statistics.absmax.max()),
        "quantiles": {
            f"{share:g}": value for share, value in zip(SHARES, one.quantiles, strict=True)
        },
        "outlier_channels": len(one.channels),
        "outliers": [channel_data(channel) for channel in one.channels[:CHANNELS_LISTED]],
        "outlier_tokens": None
        if tokens is None
        else {
            "number": tokens.number,
            "energy_ratio": tokens.ratio,
            "energy_share": tokens.share,
            "absmax": tokens.peak,
        },
    }


def channel_data(channel: "Channel") -> dict[str, Any]:
    return {
        "expert": channel.matrix if channel.matrix >= 0 else None,
        "channel": channel.channel,
        "rms": channel.rms,
        "absmax": channel.absmax,
        "mean_square_ratio": channel.ratio,
    }


def experts_data(seen: "Overview", which: Literal["unseen", "rare"]) -> dict[str, list[int]]:
    found = {one.name: list(getattr(one, which)) for one in seen.inputs}
    return {name: experts for name, experts in found.items() if experts}


def facts(seen: "Overview") -> dict[str, str]:
    calibration = seen.calibration
    windows, window = calibration.sample.tokens.shape
    found = {
        "what": f"a calibration of {calibration.model} ({calibration.fingerprint[:16]})",
        "sample": f"{calibration.sample.source}: {windows * window} tokens in {windows} windows of "
        f"{window}, seed {calibration.sample.seed}",
        "made by": f"qconvert {calibration.version}, {calibration.dtype}",
        "covers": f"{len(calibration.by_weight)} weights in {len(seen.layers)} layers and beside",
    }
    if seen.experts:
        from qconvert.calibration.types import FEW_TOKENS

        counts = [count for one in seen.experts for count in one.statistics.count.tolist()]
        unseen, rare = counts.count(0), sum(len(one.rare) for one in seen.experts)
        found["experts"] = (
            f"{len(counts)} matrices saw {median_low(counts)} tokens at the median; "
            f"{unseen} saw none, {rare} fewer than {FEW_TOKENS}"
        )
        names = [f"{one.name}[{number}]" for one in seen.experts for number in one.unseen]
        if names:
            found["unseen"] = shorten(names)
    return found


def show_kinds(seen: "Overview") -> None:
    """The inputs by kind, over all layers."""
    rows = []
    for kind in dict.fromkeys(one.kind for one in seen.inputs):
        inputs = [one for one in seen.inputs if one.kind == kind]
        medians, highs, tops = zip(*(one.spread for one in inputs), strict=True)
        largest = inputs[tops.index(max(tops))]
        layers = len({one.layer for one in inputs})
        widths = "-".join(map(str, sorted({one.statistics.columns for one in inputs})))
        spread = (f"{value:.3g}" for value in (median(medians), median(highs), max(tops)))
        place = largest.layer if largest.layer >= 0 else ""
        rows.append(
            (kind, layers, widths, *spread, place, sum(len(one.channels) for one in inputs))
        )
    render.show("\nroot mean square of channels; outliers have ten times the median and more")
    columns = ("input", ">layers", ">channels", ">median", ">99%", ">largest")
    render.print_table((*columns, "in layer", ">outliers"), rows)


def show_recurring(seen: "Overview") -> None:
    if not seen.recurring:
        return
    rows = []
    for kind, found in seen.recurring.items():
        often = list(found.items())
        more = f" and {len(often) - ROWS_SHOWN} more" if len(often) > ROWS_SHOWN else ""
        shown = ", ".join(f"{number} ({count})" for number, count in often[:ROWS_SHOWN])
        rows.append((kind, shown + more))
    render.print_table(("channels that stand out", "channel (layers)"), rows)


def show_tokens(seen: "Overview") -> None:
    """Where a few tokens carry most of the energy, the worst first."""
    found = [(one.tokens, one) for one in seen.inputs if one.tokens]
    if not found:
        return
    found.sort(key=lambda pair: -pair[0].ratio)
    rows = [
        (
            one.name,
            seen.number,
            one.count,
            f"{seen.ratio:.3g}",
            f"{seen.share:.1%}",
            f"{seen.peak:.4g}",
        )
        for seen, one in found[:ROWS_SHOWN]
    ]
    columns = ("tokens that stand out", ">tokens", ">of", ">energy to the median", ">share")
    render.print_table((*columns, ">largest"), rows)
    if len(found) > ROWS_SHOWN:
        render.show(f"and {len(found) - ROWS_SHOWN} more inputs; --json has all")


def show_inputs(inputs: "Sequence[InputOverview]") -> None:
    """Every input."""
    rows = []
    for one in inputs:
        listed = ", ".join(channel_text(channel) for channel in one.channels[:CHANNELS_SHOWN])
        more = len(one.channels) - CHANNELS_SHOWN
        spread = (f"{value:.3g}" for value in one.spread)
        peak = f"{one.statistics.absmax.max():.4g}"
        outliers = listed + (f" and {more} more" if more > 0 else "")
        rows.append((one.name, one.count, one.statistics.columns, *spread, peak, outliers))
    columns = ("input", ">tokens", ">channels", ">median", ">99%", ">max", ">largest value")
    render.print_table((*columns, "outliers"), rows)


def channel_text(channel: "Channel") -> str:
    expert = f"{channel.matrix}:" if channel.matrix >= 0 else ""
    return f"{expert}{channel.channel} (x{channel.ratio**0.5:.0f})"


def importance_as_data(matrix: "Importance") -> dict[str, Any]:
    """The JSON form of an importance matrix."""
    return {
        "kind": "importance",
        "source": matrix.path.name,
        "datasets": list(matrix.datasets),
        "chunk_count": matrix.chunk_count,
        "chunk_size": matrix.chunk_size,
        "entries": [
            {"name": name, "matrices": len(values), "columns": values.shape[1]}
            for name, values in matrix.values.items()
        ],
        "unseen": {name: list(experts) for name, experts in matrix.unseen.items()},
    }


def show_importance(matrix: "Importance", entries: bool) -> None:
    """An importance matrix of llama.cpp."""
    unseen = [f"{name}[{number}]" for name, experts in matrix.unseen.items() for number in experts]
    show_facts(
        matrix.path.name,
        {
            "what": "an importance matrix of llama.cpp",
            "sample": f"{', '.join(matrix.datasets) or 'not named'}: {matrix.chunk_count} chunks"
            + (f" of {matrix.chunk_size} tokens" if matrix.chunk_size else ""),
            "covers": f"{len(matrix.values)} weights",
            **({"unseen": shorten(unseen)} if unseen else {}),
        },
    )
    if entries:
        rows = [
            (
                name,
                *values.shape[:2],
                f"{median(values.reshape(-1).tolist()):.3g}",
                f"{values.max():.3g}",
            )
            for name, values in matrix.values.items()
        ]
        render.print_table(("weight", ">matrices", ">columns", ">median", ">largest"), rows)
