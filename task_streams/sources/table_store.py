"""Tables of images as one file with random access: a copy in Arrow's format beside the index, made once.

A parquet file can only be read a whole row group at a time, which may be the whole file; the copy is mapped into
memory, so one row costs one row and any number of processes share it. It holds the image bytes, their SHA-256 and
the named columns, and is made anew when the table has changed. Memory stays flat while it is made.
Absent on purpose: tables that hold paths instead of image bytes.
"""

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from task_streams.errors import UserError, unknown_name
from task_streams.sources.records import Damaged

FOLDER = "tables"
ROWS = 64  # of a batch, read and written at once
SCHEMA = pa.schema(
    {"image": pa.binary(), "digest": pa.binary(32), "label": pa.string(), "domain": pa.string(), "key": pa.string()}
)
OPEN_FILES = 64
NO_IMAGE = "no image bytes in its cell"


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of a table; empty = the table has none."""

    image: str
    label: str
    domain: str = ""
    key: str = ""

    @property
    def named(self) -> dict[str, str]:
        """Column by what it holds, of those that the table has."""
        return {
            kind: name for kind, name in zip(SCHEMA.names[0:1] + SCHEMA.names[2:], astuple(self), strict=True) if name
        }


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be read from its beginning to its end.

    Attributes:
        title: what messages call it.
        identity: changes whenever the rows may have changed.
        schema: opens the table; cheap. Gives the types of its columns and, by column, names of numbered classes.
        batches: its rows, ``ROWS`` at a time.
    """

    title: str
    identity: str
    schema: Callable[[], tuple[pa.Schema, dict[str, list[str]]]]
    batches: Callable[[], Iterable[pa.RecordBatch]]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a stored table; what is null in the table is None."""

    file: str
    batch: int
    row: int
    digest: str | None
    label: str | None
    domain: str | None
    key: str | None


@dataclass(frozen=True, slots=True)
class RowSource:
    """The image bytes in one row of a stored table; indexed by their content, wherever the table lies."""

    file: str
    batch: int
    row: int
    digest: str

    @property
    def name(self) -> str:
        """Identity of the content."""
        return f"sha256:{self.digest}"

    def stamp(self) -> str:
        """Always the same: other bytes have another name."""
        if not self.digest:
            raise Damaged(NO_IMAGE)
        return "content"

    def read(self) -> bytes:
        """The bytes of the image."""
        if not self.digest:
            raise Damaged(NO_IMAGE)
        try:
            return _opened(self.file, os.getpid()).image(self.batch, self.row)
        except (OSError, pa.ArrowException) as error:
            raise Damaged(f"{self.file}: {error}") from error


class _Stored:
    """A stored table that is open; its reader is used by one thread at a time."""

    def __init__(self, file: str) -> None:
        self.reader = pa.ipc.open_file(pa.memory_map(file))
        self.lock = threading.Lock()

    def image(self, batch: int, row: int) -> bytes:
        with self.lock:
            column = self.reader.get_batch(batch).column(0)
        data: bytes = column[row].as_py()
        return data


@lru_cache(OPEN_FILES)
def _opened(file: str, process: int) -> _Stored:
    """A stored table, opened once in each process."""
    return _Stored(file)


def store(table: Table, columns: Columns, cache_folder: Path | None) -> str:
    """Path of the stored copy of a table, which is made if there is none.

    Args:
        table: what is copied.
        columns: which of its columns are kept.
        cache_folder: holds the copies; None = a temporary folder that is removed when the process ends.

    Raises:
        UserError: the table cannot be read, columns are missing or of a wrong type, or the copy cannot be written.
    """
    identity = hashlib.sha256(json.dumps([table.identity, *astuple(columns)]).encode()).hexdigest()
    file = work_folder(cache_folder) / f"{identity[:32]}.arrow"
    if not file.exists():
        with reading(table.title):
            schema, names = table.schema()
        if problems := column_problems(table.title, schema, columns):
            raise UserError(*problems)
        numbered = not _is_text(schema.field(columns.label).type)
        facts = json.dumps({"numbered": numbered, "names": names.get(columns.label, [])})
        _write(table, columns, file, SCHEMA.with_metadata({"facts": facts}), names.get(columns.domain, []))
    return str(file)


def rows(file: str) -> tuple[list[Row], bool, list[str]]:
    """Rows of a stored table without their images, whether its labels are numbers, and the names of those.

    Raises:
        UserError: the file is damaged.
    """
    with reading(file, "; remove the file, it is made anew"):
        reader = pa.ipc.open_file(pa.memory_map(file))
        facts = json.loads(reader.schema.metadata[b"facts"])
        found = [row for number in range(reader.num_record_batches) for row in _rows_of(reader, file, number)]
    return found, facts["numbered"], facts["names"]


def _rows_of(reader: Any, file: str, number: int) -> Iterator[Row]:
    batch = reader.get_batch(number)
    plain = zip(*(batch.column(name).to_pylist() for name in SCHEMA.names[1:]), strict=True)
    for place, (digest, label, domain, key) in enumerate(plain):
        yield Row(file, number, place, digest.hex() if digest else None, label, domain, key)


def column_problems(title: str, schema: pa.Schema, columns: Columns) -> list[str]:
    """Columns that a table does not have, or that hold something else than they should."""
    problems = []
    for kind, name in columns.named.items():
        if name not in schema.names:
            problems.append(f"{title}: {kind}_column: {unknown_name('column', name, schema.names)}")
        elif kind == "image" and not _holds_bytes(schema.field(name).type):
            what = "image bytes, or a struct with a field of bytes"
            problems.append(f"{title}: column {name!r} holds {schema.field(name).type}; expected {what}")
        elif kind != "image" and not _is_name(schema.field(name).type):
            problems.append(f"{title}: column {name!r} holds {schema.field(name).type}; expected text or whole numbers")
    return problems


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_name(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _write(table: Table, columns: Columns, file: Path, schema: pa.Schema, domain_names: list[str]) -> None:
    """Write the copy beside its place, then put it there whole."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in _stored_batches(table, columns, schema, domain_names):
                writer.write_batch(batch)
        os.replace(part, file)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file.parent}: no copy of {table.title} can be written there ({reason})") from error
    finally:
        with suppress(OSError):  # what has made writing fail keeps it there, or has kept it from being made
            part.unlink()


def _stored_batches(
    table: Table, columns: Columns, schema: pa.Schema, domain_names: list[str]
) -> Iterator[pa.RecordBatch]:
    """Rows as they are stored; what goes wrong in here is the table's fault, not that of the place of the copy."""
    with reading(table.title):
        for batch in table.batches():
            yield _stored_batch(batch, columns, schema, domain_names)


def _stored_batch(batch: Any, columns: Columns, schema: pa.Schema, domain_names: list[str]) -> pa.RecordBatch:
    images = batch.column(columns.image)
    if pa.types.is_struct(images.type):
        images = pc.struct_field(images, "bytes")
    images = pc.cast(images, pa.binary())
    digests = [hashlib.sha256(image.as_buffer()).digest() if image.is_valid else None for image in images]
    domains = _text(batch, columns.domain)
    if domain_names:
        domains = pa.array([None if value is None else domain_names[int(value)] for value in domains.to_pylist()])
    texts = [_text(batch, columns.label), domains, _text(batch, columns.key)]
    return pa.record_batch([images, pa.array(digests, pa.binary(32)), *texts], schema=schema)


def _text(batch: Any, name: str) -> Any:
    """A column as text; nulls where there is no such column. Whole numbers that a null has made floats come back."""
    if not name:
        return pa.nulls(batch.num_rows, pa.string())
    column = batch.column(name)
    if pa.types.is_floating(column.type):
        column = pc.cast(column, pa.int64())
    return pc.cast(column, pa.string())


@contextmanager
def reading(title: str, remedy: str = "") -> Iterator[None]:
    """Errors of reading a table as those of a user.

    Raises:
        UserError: with the table's title.
    """
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise UserError(f"{title}: cannot be read ({str(error).splitlines()[0]}){remedy}") from error


def work_folder(cache_folder: Path | None) -> Path:
    """Folder of the stored tables; without a cache a temporary one, which is removed when the process ends."""
    return (cache_folder or Path(_temporary().name)) / FOLDER


@cache
def _temporary() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="clrft-tables-")
