"""Data sets of the Hugging Face hub, through `datasets`.

A process of its own reads them, as it does other Parquet. They are streamed: of a large one a few
parts are fetched, spread over its files and, where these are Parquet, over the row groups in them.
Endpoint, token and cache are the library's: HF_ENDPOINT, HF_TOKEN, HF_HOME.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from qconvert.errors import HubError, QconvertError, UsageError
from qconvert.text.apart import read_apart, serve
from qconvert.text.documents import Document, Text, choose
from qconvert.text.records import pick_column, to_document

PLACES = 16
"""In how many places a large data set is read."""


def read_dataset(
    dataset: str, config: str, split: str, column: str, budget: int, seed: int
) -> Text:
    """Documents of a data set.

    Args:
        dataset: "org/name".
        config: a configuration of it; "" for the only one.
        split: "" for the only one, or train.
        column: "" for the usual ones.
        budget: characters wanted.
        seed: of the choice.

    Raises:
        HubError: it cannot be had.
        CheckpointError: it breaks its reader.
        UsageError: it has no such configuration, split or column, or several might be meant.
    """
    return read_apart(
        "qconvert.text.hub_data",
        f"{dataset}/{config}" if config else dataset,
        dataset=dataset,
        config=config,
        split=split,
        column=column,
        budget=budget,
        seed=seed,
    )


def read_here(
    name: str, dataset: str, config: str, split: str, column: str, budget: int, seed: int
) -> Text:
    """The same in this process."""
    from datasets.utils import disable_progress_bars

    disable_progress_bars()  # they know nothing of ours
    try:
        return _documents_of(name, dataset, config, split, column, budget, seed)
    except QconvertError:
        raise
    except Exception as error:
        # The library lets its many readers' and its transport's exceptions through.
        raise _explain(error, name) from error


def _documents_of(
    name: str, dataset: str, config: str, split: str, column: str, budget: int, seed: int
) -> Text:
    from datasets import load_dataset
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(dataset).sha or ""
    splits = load_dataset(dataset, config or None, streaming=True, revision=commit or None)
    split = _pick_split(list(splits), split, name)
    rows = splits[split]
    features = rows.features or _first_features(rows)
    kinds = {key: _kind(feature) for key, feature in features.items()}
    chosen, _ = pick_column(kinds, column, f"{name}@{split}")
    limit = _Limit(4 * budget)
    text = choose(_documents(rows, chosen, limit, seed), budget, seed)
    detail = f"split {split}, column {chosen}" + (f", revision {commit[:12]}" if commit else "")
    if limit.only_beginning:
        detail += ", from its beginning"
    return Text(text.documents, text.complete and not limit.was_cut, text.repeats, detail)


class _Limit:
    """How many characters may be fetched, and what became of that.

    Attributes:
        was_cut: something was left unread.
        only_beginning: what was read lies at the beginning of the one file there is.
    """

    def __init__(self, characters: int) -> None:
        self.characters = characters
        self.was_cut = False
        self.only_beginning = False


def _documents(rows: Any, column: str, limit: _Limit, seed: int) -> Iterator[Document]:
    """Documents from places all over a data set, and where these have too few, from the rest."""
    places = _Places(rows, np.random.default_rng(seed))
    spread = places.spread()
    share = -(-limit.characters // max(len(spread), 1))
    for place in spread:
        yield from _read_place(places.rows(place).select_columns([column]), place, limit, share)
    for place in places.others(spread):
        if limit.characters <= 0:
            limit.was_cut = True
            return
        part = places.rows(place).select_columns([column])
        yield from _read_place(part, place, limit, limit.characters)
    limit.only_beginning = limit.was_cut and len(spread) == 1


def _read_place(part: Any, place: tuple[int, int], limit: _Limit, most: int) -> Iterator[Document]:
    """Documents of one place, until they have that many characters."""
    for row, record in enumerate(part):
        if most <= 0:
            limit.was_cut = True
            return
        (value,) = record.values()
        document = to_document(
            value, f"row {row + 1} of part {place[1] + 1} of file {place[0] + 1}"
        )
        if document is not None:
            most -= len(document.text)
            limit.characters -= len(document.text)
            yield document


class _Places:
    """The parts of a data set that can be read apart: files and, in Parquet, their row groups.

    Finding the groups of a file fetches its end; so they are found as they are needed.
    """

    def __init__(self, rows: Any, draw: np.random.Generator) -> None:
        self.all = rows
        self.draw = draw
        self.files: dict[int, Any] = {}

    def rows(self, place: tuple[int, int]) -> Any:
        part = self._file(place[0])
        return part.shard(part.num_shards, place[1])

    def spread(self) -> list[tuple[int, int]]:
        """Places all over the data set, as (file, group)."""
        files = _spread(self.all.num_shards, PLACES, self.draw)
        each = max(1, PLACES // max(len(files), 1))
        return [
            (file, group)
            for file in files
            for group in _spread(self._file(file).num_shards, each, self.draw)
        ]

    def others(self, taken: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """All that are not taken, in the data set's order."""
        for file in range(self.all.num_shards):
            for group in range(self._file(file).num_shards):
                if (file, group) not in taken:
                    yield file, group

    def _file(self, number: int) -> Any:
        if number not in self.files:
            part = self.all.shard(self.all.num_shards, number)
            # Since datasets 4.5; without it a file is read from its beginning.
            self.files[number] = part.reshard() if hasattr(part, "reshard") else part
        return self.files[number]


def _spread(total: int, wanted: int, draw: np.random.Generator) -> list[int]:
    """At most so many of the numbers below `total`, one from each of as many equal parts."""
    wanted = min(total, wanted)
    bounds = total * np.arange(wanted + 1) // max(wanted, 1)
    picked: list[int] = draw.integers(bounds[:-1], bounds[1:]).tolist()
    return picked


def _pick_split(splits: list[str], wanted: str, name: str) -> str:
    if wanted and wanted not in splits:
        raise UsageError(
            f"{name} has no split {wanted!r:.80}; it has {', '.join(splits)}",
            f"name one: {name}@{splits[0]}" if splits else "",
        )
    if wanted or len(splits) == 1:
        return wanted or splits[0]
    if "train" in splits:
        return "train"
    raise UsageError(
        f"{name} has several splits: {', '.join(splits)}",
        f"name one: {name}@{splits[0]}" if splits else "",
    )


def _first_features(rows: Any) -> dict[str, Any]:
    """The values of the first record, where the data set does not say what it holds."""
    return next(iter(rows), {})


def _kind(feature: Any) -> str:
    """A column's kind, by its feature or, where there is none, by a value of it."""
    if isinstance(feature, str) or getattr(feature, "dtype", "") in ("string", "large_string"):
        return "document"
    inner = getattr(feature, "feature", feature)
    if isinstance(inner, list):
        inner = inner[0] if inner else None
    return "chat" if isinstance(inner, dict) and "role" in inner else ""


def _explain(error: Exception, name: str) -> QconvertError:
    from huggingface_hub import errors

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = (lines or [type(error).__name__])[0][:400]
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, errors.GatedRepoError):
        return HubError(
            f"the data set {name} is gated, and access was not granted",
            "accept its terms on its page, then log in: hf auth login, or set HF_TOKEN",
        )
    if isinstance(error, errors.RepositoryNotFoundError) or "DatasetNotFoundError" in kinds:
        return HubError(
            f"{name}: no such file here, and no such data set on the hub, or it is private",
            "check the name; for a private data set log in: hf auth login, or set HF_TOKEN",
        )
    if "Config name is missing" in line or "BuilderConfig" in line:
        return UsageError(f"{name}: {' '.join(lines)[:400]}", "name one: org/name/CONFIG@split")
    if "script" in line and isinstance(error, RuntimeError):
        return HubError(
            f"{name} needs a script of its own to be read, and no code from the hub is run",
            "name a data set whose files are Parquet, JSON or text",
        )
    if isinstance(error, errors.OfflineModeIsEnabled) or kinds & {
        "TransportError",
        "ConnectionError",
        "TimeoutError",
    }:
        return HubError(
            f"the data set {name}: the hub cannot be reached: {line}",
            "check the connection, HF_ENDPOINT and HF_HUB_OFFLINE, or name a file",
        )
    return HubError(f"the data set {name} cannot be read: {line}", "try again, or name a file")


if __name__ == "__main__":
    serve(read_here)
