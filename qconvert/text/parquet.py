"""Documents out of Parquet files, one in each row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.errors import CheckpointError, QconvertError, first_line
from qconvert.text.apart import read_apart, serve
from qconvert.text.documents import Document, Text, choose
from qconvert.text.records import WHOLE, pick_column, to_document


def read_parquet(path: Path, name: str, column: str, budget: int, seed: int) -> Text:
    """Parquet; of a large file, row groups from all over it.

    Raises:
        CheckpointError: it is damaged or no Parquet file.
        UsageError: there is no such column, or several might be meant.
    """
    if path.is_dir():
        raise CheckpointError(f"{name} is a directory", "name the files in it")
    if read_bytes_at(path, 0, min(file_size(path), 4)) != b"PAR1":
        raise CheckpointError(f"{name} is not a Parquet file")
    return read_apart(
        "qconvert.text.parquet",
        name,
        path=str(path.absolute()),
        column=column,
        budget=budget,
        seed=seed,
        most=max(WHOLE, 16 * budget),
    )


def _read(name: str, path: str, column: str, budget: int, seed: int, most: int) -> Text:
    try:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            kinds = {field.name: _arrow_kind(field.type) for field in file.schema_arrow}
            chosen, _ = pick_column(kinds, column, name)
            groups = _row_groups(file.metadata, chosen, most, seed)
            text = choose(_values(file, groups, chosen, name), budget, seed)
            complete = text.complete and len(groups) == file.num_row_groups
    except QconvertError:
        raise
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{name}: the column {chosen} is not UTF-8: {first_line(error)}", "make it UTF-8"
        ) from error
    except Exception as error:  # which errors damaged files raise is pyarrow's to know
        raise CheckpointError(f"{name} cannot be read: {first_line(error)}") from error
    return Text(text.documents, complete, text.repeats, f"column {chosen}")


def _arrow_kind(kind: Any) -> str:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "document"
    if types.is_list(kind) or types.is_large_list(kind):
        item = kind.value_type
        names = {item.field(i).name for i in range(item.num_fields)}
        return "chat" if types.is_struct(item) and "role" in names else ""
    return ""


def _row_groups(metadata: Any, column: str, limit: int, seed: int) -> list[int]:
    """Row groups with about that many bytes of the column, at least one, in the file's order."""
    groups = []
    for number in np.random.default_rng(seed).permutation(metadata.num_row_groups).tolist():
        if limit <= 0:
            break
        group = metadata.row_group(number)
        chunks = (group.column(i) for i in range(group.num_columns))
        limit -= sum(
            chunk.total_uncompressed_size
            for chunk in chunks
            if chunk.path_in_schema.split(".")[0] == column
        )
        groups.append(number)
    return sorted(groups)


def _values(file: Any, groups: list[int], column: str, name: str) -> Iterator[Document]:
    starts = np.cumsum(
        [0] + [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    )
    for group in groups:
        row = int(starts[group])
        for batch in file.iter_batches(batch_size=64, row_groups=[group], columns=[column]):
            for value in batch.column(0).to_pylist():
                row += 1
                document = to_document(value, f"row {row}")
                if document is not None:
                    yield document
                elif value:
                    raise CheckpointError(
                        f"{name}: row {row}: {column} is neither a text nor a list of messages",
                        "a message is an object with 'role' and 'content'",
                    )


if __name__ == "__main__":
    serve(_read)
