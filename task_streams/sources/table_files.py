"""Where tables of images come from: parquet files, and datasets of the Hugging Face hub.

Both are read from beginning to end in small batches. A hub dataset is streamed, so that nothing is written but the
stored copy (``table_store.py``); a dataset's own code is never run. The names of numbered classes are those that the
``datasets`` library keeps with a column (``ClassLabel``).
"""

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from task_streams.errors import UserError, unknown_name
from task_streams.sources.table_store import ROWS, Table

READ_AHEAD = 1 << 20  # bytes; with it a row group is not read as a whole


def parquet_tables(field: str, patterns: Sequence[str]) -> list[Table]:
    """The parquet files that paths or patterns name, sorted by path, each once.

    Raises:
        UserError: paths that name no file, all of them.
    """
    found: dict[str, None] = {}
    problems = []
    for pattern in patterns:
        files = _files(pattern)
        problems += [] if files else [_no_file(field, pattern)]
        found |= dict.fromkeys(files)
    if problems:
        raise UserError(*problems)
    return [_parquet_table(file) for file in sorted(found)]


def _files(pattern: str) -> list[str]:
    path = os.path.abspath(os.path.expanduser(pattern))
    if os.path.isfile(path):  # also one with * or [ in its name
        return [path]
    return [file for file in glob.glob(path, recursive=True) if os.path.isfile(file)]


def _no_file(field: str, pattern: str) -> str:
    path = Path(pattern).expanduser()
    if path.is_dir():
        return f"{field} {pattern!r}: expected a parquet file; found a folder. Name its files, e.g. {pattern}/*.parquet"
    beside = [file.name for file in path.parent.glob("*.parquet")] if path.parent.is_dir() else []
    hint = f" {unknown_name('file', path.name, beside)}" if beside else ""
    return f"{field} {pattern!r}: expected a parquet file, or a pattern that matches some; found nothing there.{hint}"


def _parquet_table(path: str) -> Table:
    status = os.stat(path)
    identity = json.dumps([path, status.st_size, status.st_mtime_ns])
    return Table(path, identity, partial(_parquet_schema, path), partial(_parquet_batches, path))


def _parquet_schema(path: str) -> tuple[pa.Schema, dict[str, list[str]]]:
    schema = pq.read_schema(path)
    kept = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return schema, class_names(kept.get("info", {}).get("features", {}))


def class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of numbered classes by column, from the features that the ``datasets`` library keeps with a table."""
    plain = {column: feature for column, feature in features.items() if isinstance(feature, dict)}
    return {column: list(feature["names"]) for column, feature in plain.items() if feature.get("_type") == "ClassLabel"}


def _parquet_batches(path: str) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, buffer_size=READ_AHEAD, pre_buffer=False) as file:
        yield from file.iter_batches(ROWS)


def hub_table(dataset: str, config_name: str | None, split: str, revision: str | None, scratch: Path) -> Table:
    """One split of a hub dataset, or of a folder in one of the layouts that the ``datasets`` library reads.

    Args:
        dataset: id on the hub, e.g. ``owner/name``, or path of a folder.
        config_name: configuration, for datasets that have several.
        split: e.g. ``train``.
        revision: branch, tag or commit; a copy that was made of a branch is used again, also when it has moved on.
        scratch: folder in which the library may leave notes of its own.

    Raises:
        UserError: the path of a folder that is not there.
    """
    folder = Path(dataset).expanduser()
    if not folder.is_dir() and (dataset.startswith((".", "/", "~")) or dataset.count("/") > 1):
        raise UserError(f"hub {dataset!r}: expected the id of a dataset (owner/name) or a folder; found nothing there")
    local = sorted(file for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else []
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in local]
    identity = json.dumps(["hub", dataset, config_name, split, revision, stamps])
    loaded = partial(_loaded, str(folder) if local else dataset, config_name, split, revision, scratch)
    return Table(
        f"hub {dataset!r}, split {split!r}", identity, partial(_hub_schema, loaded), partial(_hub_batches, loaded)
    )


def _loaded(dataset: str, config_name: str | None, split: str, revision: str | None, scratch: Path) -> Any:
    """The split as an iterable dataset of undecoded rows.

    Raises:
        UserError: there is no such dataset, configuration, split or revision, or it cannot be reached.
    """
    from datasets import Image, load_dataset  # here, because the import takes a second

    try:
        found = load_dataset(
            dataset, config_name, split=split, revision=revision, streaming=True, cache_dir=str(scratch)
        )
    except (OSError, ValueError) as error:
        raise UserError(f"hub {dataset!r}: cannot be opened ({error})") from error
    for column, feature in (found.features or {}).items():
        if isinstance(feature, Image):
            found = found.cast_column(column, Image(decode=False))
    return found


def _hub_schema(loaded: Any) -> tuple[pa.Schema, dict[str, list[str]]]:
    dataset = loaded()
    if dataset.features is not None:
        return dataset.features.arrow_schema, class_names(dataset.features.to_dict())
    first = next(iter(_hub_batches(loaded)), None)
    return (pa.schema([]) if first is None else first.schema), {}


def _hub_batches(loaded: Any) -> Iterator[pa.RecordBatch]:
    for table in loaded().with_format("arrow").iter(batch_size=ROWS):
        yield from table.combine_chunks().to_batches()
