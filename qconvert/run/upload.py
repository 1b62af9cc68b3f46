"""Outputs on their way to the Hugging Face hub: one commit, of all files at once.

A repository that is not there is made, private unless it is said otherwise. Files whose content the
hub has already are not sent again, so an upload that was interrupted goes on with the next file.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qconvert import __version__
from qconvert.checkpoint import open_checkpoint
from qconvert.checkpoint.files import file_size
from qconvert.checkpoint.hub import bars
from qconvert.containers.model_card import REPOSITORY_ID, escaped, model_card
from qconvert.containers.sizes import human_bytes
from qconvert.errors import HubError, QconvertError, UsageError, first_line
from qconvert.model.general import CARD

MEASURED = "## Measured"
MOST_JSON, MOST_FILES = 4_000_000, 64
"""Bytes of a file that may be an evaluation, and how many are looked at."""

WRITTEN = "Made by qconvert {version}, for llama.cpp and what is built on it."


@dataclass(frozen=True)
class Uploaded:
    """What the hub has now.

    Attributes:
        url: of the commit.
        files: by the names that they have there.
        nbytes: of all of them.
    """

    repo: str
    url: str
    files: tuple[str, ...]
    nbytes: int


def check_repository(repo: str) -> None:
    """Refuse what cannot be a repository's name, before anything is made.

    Raises:
        UsageError: it is not org/name.
    """
    if REPOSITORY_ID.fullmatch(repo) is None:
        raise UsageError(f"{repo!r:.200} is no repository of the hub", "write org/name")


def upload(
    outputs: Sequence[Sequence[Path]],
    places: Sequence[Path],
    repo: str,
    *,
    base: str = "",
    public: bool = False,
    progress: bool | None = None,
) -> Uploaded:
    """Put outputs on the hub.

    Args:
        outputs: the files of each.
        places: what each is called: the (first) file, or the directory. One directory alone fills
            the repository, of several each has a folder there.
        base: the repository that the model came from.
        public: for a repository that is made now.

    Raises:
        UsageError: the name is none.
        HubError: the hub does not take them.
    """
    check_repository(repo)
    named = dict(_named(outputs, places))
    cards = _with_figures(named, places, base)
    with bars(sys.stderr.isatty() if progress is None else progress):
        try:
            url = _commit(repo, named, cards, public=public)
        except QconvertError:
            raise
        except Exception as error:
            raise _refused(error, repo) from error
    sizes = sum(map(file_size, named.values()))
    return Uploaded(repo, url, tuple(sorted({*named, *cards})), sizes)


def _commit(
    repo: str, named: Mapping[str, Path], cards: Mapping[str, bytes], *, public: bool
) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    api.create_repo(repo, private=not public, exist_ok=True)
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=cards.get(name) or str(path))
        for name, path in {**{name: Path() for name in cards}, **named}.items()
    ]
    made = api.create_commit(repo, operations, commit_message=f"Made by qconvert {__version__}")
    return str(made.commit_url)


def _named(outputs: Sequence[Sequence[Path]], places: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Names there, and files here."""
    alone = len(outputs) == 1
    for files, place in zip(outputs, places, strict=True):
        for file in files:
            if place.is_dir():
                inner = file.relative_to(place).as_posix()
                yield inner if alone else f"{place.name}/{inner}", file
            else:
                yield file.name, file


def _with_figures(named: Mapping[str, Path], places: Sequence[Path], base: str) -> dict[str, bytes]:
    """The cards, with the figures of evaluations that lie beside the outputs; of GGUF files a card
    is made."""
    rows = [row for place in places for row in _figures(place)]
    measured = _table(rows)
    cards = {}
    for name, path in named.items():
        if name == CARD or name.endswith(f"/{CARD}"):
            text = path.read_text(encoding="utf-8").partition(f"\n{MEASURED}")[0]
            cards[name] = (text.rstrip() + "\n" + measured).encode()
    if CARD not in named:
        cards[CARD] = (_gguf_card(named, base) + measured).encode()
    return cards


def _gguf_card(named: Mapping[str, Path], base: str) -> str:
    files = {name: path for name, path in named.items() if "/" not in name}
    first = next((path for name, path in files.items() if name.endswith(".gguf")), None)
    metadata = open_checkpoint(str(first)).metadata if first else {}
    facts = {name: human_bytes(file_size(path)) for name, path in files.items()}
    words = {"written": WRITTEN, "base": base.partition("@")[0], "library": "gguf"}
    return model_card(metadata, facts, (), "text-generation", **words)  # type: ignore[arg-type]


def _figures(place: Path) -> Iterator[Mapping[str, Any]]:
    """What evaluations beside an output say of it: the JSON of `qconvert evaluate`."""
    for path in sorted(place.absolute().parent.glob("*.json"))[:MOST_FILES]:
        try:
            if file_size(path) > MOST_JSON:
                continue
            found = json.loads(path.read_text(encoding="utf-8"))
            files = found["files"] if "reference" in found else []
            for row in files:
                if Path(row["path"]).name == place.name:
                    yield {**row, "data": found["data"], "reference": found["reference"]}
        except (OSError, ValueError, KeyError, TypeError, QconvertError):
            continue  # some other file


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [
        "",
        MEASURED,
        "",
        "| file | text | perplexity | its ratio | KL divergence | same top token |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [escaped(Path(str(row["path"])).name), escaped(Path(str(row["data"])).name)]
        cells += [_number(row.get(key)) for key in ("perplexity", "perplexity_ratio")]
        divergence = row.get("kl_divergence")
        mean = divergence.get("mean") if isinstance(divergence, Mapping) else None
        cells += [_number(mean), _number(row.get("same_top"))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, int | float) else ""


def _refused(error: Exception, repo: str) -> HubError:
    """What the hub or the way to it said, in a line."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    if isinstance(error, OfflineModeIsEnabled):
        return HubError(f"{repo}: the hub is not asked, as HF_HUB_OFFLINE says", "unset it")
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if status in (401, 403) or isinstance(error, LocalTokenNotFoundError):
        return HubError(
            f"the hub lets nobody write to {repo} without a token that may",
            "log in with one that may write: hf auth login, or set HF_TOKEN",
        )
    why = f"it answered with status {status}" if status else first_line(error.__cause__ or error)
    return HubError(
        f"{repo}: the upload failed: {why}",
        "the same command goes on: what is made stays, and what the hub has is not sent again",
    )
