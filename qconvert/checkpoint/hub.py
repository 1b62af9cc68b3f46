"""Models on the Hugging Face hub, through `huggingface_hub` and its cache.

Endpoint, token, cache and offline mode are that library's: HF_ENDPOINT, HF_TOKEN, HF_HOME,
HF_HUB_OFFLINE and the rest of its environment.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path

from qconvert.checkpoint.files import read_json_object, reason
from qconvert.checkpoint.foreign import ADAPTER, foreign_files
from qconvert.checkpoint.gguf import SHARD
from qconvert.errors import CheckpointError, HubError, QconvertError, UnsupportedError

# Beside the weights: configuration, tokenizer, chat templates, pooling of sentence encoders.
WANTED = (
    "README.md",
    "*.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "merges.txt",
    "vocab.txt",
    "additional_chat_templates/*.jinja",
    "[0-9]_*/config.json",
    "[0-9]_*Dense/model.safetensors",  # small, and a part of what the model says
)
UNWANTED = ("*.index.json", "trainer_state.json", "training_args.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def fetch(
    repo: str,
    file: str | None,
    revision: str | None,
    progress: bool | None,
    headers_only: bool = False,
) -> tuple[str, Path]:
    """Bring the needed files of a repository into the cache.

    Args:
        repo: "org/name".
        file: a GGUF file in it; None for the directory.
        revision: a branch, a tag or a commit; None for the default branch.
        progress: show bars on standard error; None does so on a terminal.
        headers_only: of safetensors that are not in the cache fetch the headers alone; the
            directory is then a preview, whose weights read as zeros.

    Returns:
        The id with its commit, "org/name@commit", and the snapshot's directory or file.

    Raises:
        HubError: the repository, revision or file cannot be had.
        UnsupportedError: it holds what is no model; nothing of it is downloaded.
    """
    with _explained(repo, revision, progress):
        snapshot = _fetch(repo, file, revision, headers_only)
    if file is None:
        return f"{repo}@{snapshot.name}", snapshot
    return f"{repo}:{file}@{snapshot.name}", snapshot / file


def fetch_shards(repo: str, folder: Path, shards: Sequence[str], progress: bool | None) -> None:
    """Bring some of a preview's files, which are then whole.

    Raises:
        HubError: they cannot be had.
    """
    from qconvert.checkpoint.preview import fill

    with _explained(repo, folder.name, progress):
        fill(repo, folder, shards)


@contextmanager
def _explained(repo: str, revision: str | None, progress: bool | None) -> Iterator[None]:
    with bars(sys.stderr.isatty() if progress is None else progress):
        try:
            yield
        except QconvertError:
            raise
        except Exception as error:
            # The library lets its transport's exceptions through, and these change with it.
            raise _explain(error, repo, revision) from error


def _fetch(repo: str, file: str | None, revision: str | None, headers_only: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    if file is not None and ".." in file.split("/"):
        raise HubError(f"{repo}: {file!r:.200} is no file of a repository")
    try:
        info = HfApi().model_info(repo, revision=revision)
        names = sorted(entry.rfilename for entry in info.siblings or [])
    except Exception as error:
        if not _unreachable(error):
            raise
        # Whatever else is missing in the cache is named when the snapshot is opened.
        needed = [escape(file or "config.json")]
        return Path(
            snapshot_download(repo, revision=revision, allow_patterns=needed, local_files_only=True)
        )

    def download(wanted: Sequence[str], at: str | None = revision) -> Path:
        patterns = [escape(name) for name in wanted]
        return Path(snapshot_download(repo, revision=at, allow_patterns=patterns))

    if file is not None:
        return download(_gguf_files(repo, file, names))
    beside, weights = _select(repo, names)
    if headers_only and ".safetensors" in weights:
        return _fetch_headers(repo, download, beside, weights)
    if weights.endswith(".json"):
        # Which shards there are is only known once the index is there.
        snapshot = download([*beside, weights])
        shards = _shards(snapshot / weights)
        missing = [shard for shard in shards if shard not in names]
        if missing:
            raise HubError(
                f"{repo} lacks the shard {missing[0]!r:.200} that {weights} names",
                "name another revision: org/name@revision",
            )
        return download([*beside, weights, *shards], snapshot.name)
    return download([*beside, weights])


def _fetch_headers(
    repo: str, download: Callable[[Sequence[str]], Path], beside: Sequence[str], weights: str
) -> Path:
    """The snapshot where all weights are in the cache, else a preview of it."""
    from qconvert.checkpoint.preview import preview

    single = not weights.endswith(".json")
    snapshot = download(beside if single else [*beside, weights])
    shards = [weights] if single else _shards(snapshot / weights)
    if all((snapshot / shard).exists() for shard in shards):
        return snapshot
    return preview(repo, snapshot, shards)


def _select(repo: str, names: Sequence[str]) -> tuple[list[str], str]:
    """The small files, and the file of weights or the index of its shards."""
    found = (n for name in WEIGHTS for n in (name, name + ".index.json") if n in names)
    weights = next(found, None)
    ggufs = [name for name in names if name.endswith(".gguf")]
    if weights is None and ggufs:
        more = f" and {len(ggufs) - 8} more" if len(ggufs) > 8 else ""
        raise HubError(
            f"{repo} has GGUF files alone: {', '.join(ggufs[:8])}{more}",
            f"name one: {repo}:{ggufs[0]}",
        )
    if weights is None or ADAPTER in names:
        if told := foreign_files(names):
            raise UnsupportedError(f"{repo} holds {told[0]}, which is not read", told[1])
        raise HubError(f"{repo} has neither {' nor '.join(WEIGHTS)}", "name another repository")
    beside = [
        name
        for name in names
        if any(fnmatchcase(name, p) and name.count("/") == p.count("/") for p in WANTED)
        and not any(fnmatchcase(name, pattern) for pattern in UNWANTED)
    ]
    return beside, weights


def _shards(index: Path) -> list[str]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, Mapping):
        raise CheckpointError(f"{index} has no weight_map")
    return sorted({shard for shard in weight_map.values() if isinstance(shard, str)})


def _gguf_files(repo: str, file: str, names: Sequence[str]) -> list[str]:
    if file not in names:
        ggufs = [name for name in names if name.endswith(".gguf")]
        raise HubError(
            f"{repo} has no file {file!r:.200}",
            f"it has {', '.join(ggufs[:8])}" if ggufs else "it has no GGUF files at all",
        )
    match = SHARD.fullmatch(file)
    if match is None:
        return [file]
    stem, count = match["stem"], match["count"]
    return [
        n for n in names if (m := SHARD.fullmatch(n)) and (m["stem"], m["count"]) == (stem, count)
    ]


def _unreachable(error: Exception) -> bool:
    """Whether the hub gave no answer, so that the cache may serve in its stead."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, OfflineModeIsEnabled) or _transport(error)


def _transport(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"TransportError", "ConnectionError", "TimeoutError"})


def _explain(error: Exception, repo: str, revision: str | None) -> HubError:
    from huggingface_hub import errors

    where = repo if revision is None else f"{repo}@{revision}"
    if isinstance(error, errors.GatedRepoError):
        return HubError(
            f"{repo} is gated, and access was not granted",
            "accept its terms on its page, then log in: hf auth login, or set HF_TOKEN",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{repo} has no revision {revision!r:.100}", "name a branch, tag or commit")
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubError(
            f"{repo}: no such path here, and no such model on the hub, or it is private",
            "check the name; for a private model log in: hf auth login, or set HF_TOKEN",
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return HubError(
            f"{where} is no path here, not in the cache, and the hub cannot be reached",
            "check the connection, HF_ENDPOINT and HF_HUB_OFFLINE",
        )
    if isinstance(error, errors.HFValidationError):
        return HubError(f"{repo!r:.200} is neither a path nor a hub id", "hub ids are org/name")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return HubError(f"{where}: the hub answered with status {status}", "try again later")
    if _transport(error):
        return HubError(
            f"{where}: the connection to the hub failed: {_line(error)}",
            "try again; downloads resume",
        )
    return HubError(f"{where}: the download failed: {_line(error)}")


def _line(error: Exception) -> str:
    lines = reason(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


@contextmanager
def bars(show: bool) -> Iterator[None]:
    """The library's progress bars and its warnings, or none of them."""
    # The library sets its logger's level when these are imported: not after it is changed here.
    from huggingface_hub import HfApi, snapshot_download  # noqa: F401
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if show or are_progress_bars_disabled():
        yield
        return
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    disable_progress_bars()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        enable_progress_bars()
