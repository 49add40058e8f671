"""Tables of images: parquet files and datasets of the Hugging Face hub, as one file with random access.

A parquet file can only be read a whole row group at a time, which may be the whole file, so a copy in Arrow's format is
made once beside the index: it is mapped into memory, one row costs one row, and any number of processes share it. It
holds the image bytes, their SHA-256 and the named columns, and is made anew when the table has changed. Tables are read
in small batches, so memory stays flat (the ``datasets`` library would hold a whole row group while it makes its copy).
A hub dataset is streamed, so that nothing is written but the stored copy; a dataset's own code is never run. The names
of numbered classes are those that the ``datasets`` library keeps with a column (``ClassLabel``).
Images that a dataset in a folder has by their paths (``imagefolder``) are read from there, and from nowhere else.
Absent on purpose: parquet files that hold paths instead of image bytes.
"""

import glob
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from functools import cache, lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq
import pyarrow.types as kinds

from task_streams.errors import UserError, shown, unknown_name
from task_streams.sources.images import SUFFIXES
from task_streams.sources.layout import link_problem
from task_streams.sources.records import Damaged, FileSource, file_stamp

FOLDER = "tables"
ROWS = 64  # of a batch, read and written at once
SCHEMA = pa.schema(
    {"image": pa.binary(), "digest": pa.binary(32), "label": pa.string(), "domain": pa.string(), "key": pa.string()}
)
OPEN_FILES = 64
READ_AHEAD = 1 << 20  # bytes; with it a row group is not read as a whole
NO_IMAGE = "no image bytes in its cell"

# Of an opened table: types of its columns, names of numbered classes by column, and its rows, ``ROWS`` at a time.
Opened = tuple[pa.Schema, dict[str, list[str]], Iterable[pa.RecordBatch]]


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of a table; empty = the table has none."""

    image: str
    label: str
    domain: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be read from its beginning to its end.

    Attributes:
        title: what messages call it.
        identity: changes whenever the rows may have changed.
        opened: opens it.
        folder: of the images that it has by their paths; None = it holds their bytes.
    """

    title: str
    identity: str
    opened: Callable[[], Opened]
    folder: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSource(FileSource):
    """The image bytes in one row of a stored table; indexed by their content, wherever the table lies."""

    batch: int
    row: int
    digest: str

    @property
    def name(self) -> str:
        return f"sha256:{self.digest}"

    def stamp(self) -> str:
        return "content"  # always the same: other bytes have another name

    def read(self) -> bytes:
        if not self.digest:
            raise Damaged(NO_IMAGE)
        try:
            reader, lock = _opened(os.fspath(self.path), os.getpid())
            with lock:
                column = reader.get_batch(self.batch).column(0)
            data: bytes = column[self.row].as_py()
            return data
        except (OSError, pa.ArrowException) as error:
            raise Damaged(f"{self.path}: {error}") from error


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored table.

    Attributes:
        title: what messages call it.
        rows: image, label, domain and key of each; what is null in the table is None.
        numbered: whether its labels are numbers.
        names: names of those, as the table keeps them.
    """

    title: str
    rows: list[tuple[RowSource, str | None, str | None, str | None]]
    numbered: bool
    names: list[str]


@lru_cache(OPEN_FILES)
def _opened(file: str, process: int) -> tuple[Any, threading.Lock]:
    """The reader of a stored table, opened once in each process, and the lock of the one thread that uses it."""
    return pa.ipc.open_file(pa.memory_map(file)), threading.Lock()


def parquet_tables(field: str, patterns: Sequence[str]) -> list[Table]:
    """The parquet files that paths or patterns name, sorted by path, each once.

    Raises:
        UserError: paths that name no file, all of them.
    """
    found: set[str] = set()
    problems = []
    for pattern in patterns:
        path = Path(os.path.abspath(os.path.expanduser(pattern)))
        files = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)  # * may be part of a name
        odd = [file for file in files if not os.path.isfile(file) and not os.path.isdir(file)]
        problems += [f"{field} {pattern!r}: {file} is no regular file; expected a parquet file" for file in odd]
        files = [file for file in files if os.path.isfile(file)]
        if not files and path.is_dir():
            expected = f"expected a parquet file; found a folder. Name its files, e.g. {pattern}/*.parquet"
            problems.append(f"{field} {pattern!r}: {expected}")
        elif not files:
            beside = [file.name for file in path.parent.glob("*.parquet")] if path.parent.is_dir() else []
            hint = f" {unknown_name('file', path.name, beside)}" if beside else ""
            expected = "expected a parquet file, or a pattern that matches some; found nothing there."
            problems.append(f"{field} {pattern!r}: {expected}{hint}")
        found.update(files)
    if problems:
        raise UserError(*problems)
    tables = []
    for file in sorted(found):
        tables.append(Table(file, json.dumps([file, file_stamp(file)]), partial(_open_parquet, file)))
    return tables


def _open_parquet(path: str) -> Opened:
    def batches() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path, buffer_size=READ_AHEAD, pre_buffer=False) as file:
            yield from file.iter_batches(ROWS)

    schema = pq.read_schema(path)
    kept = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return schema, _class_names(kept.get("info", {}).get("features", {})), batches()


def _class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of numbered classes by column, from the features that the ``datasets`` library keeps with a table."""
    plain = {column: feature for column, feature in features.items() if isinstance(feature, dict)}
    return {column: list(feature["names"]) for column, feature in plain.items() if feature.get("_type") == "ClassLabel"}


def hub_table(dataset: str, config_name: str | None, split: str, revision: str | None, scratch: Path) -> Table:
    """One split of a hub dataset (``owner/name``), or of a folder in a layout that the ``datasets`` library reads.

    A copy that was made of a branch is used again, also when the branch has moved on. The library may leave notes of
    its own in ``scratch``.

    Raises:
        UserError: the path of a folder that is not there.
    """
    folder = Path(dataset).expanduser()
    if not folder.is_dir() and (dataset.startswith((".", "/", "~")) or dataset.count("/") > 1):
        raise UserError(f"hub {dataset!r}: expected the id of a dataset (owner/name) or a folder; found nothing there")
    found = sorted(folder.rglob("*")) if folder.is_dir() else []
    local = [entry for entry in found if entry.is_file()]
    # which the datasets library would pass over
    odd = [entry for entry in found if not entry.is_file() and not (entry.is_dir() and entry.suffix not in SUFFIXES)]
    if odd:
        what = "neither files nor folders, or folders with the name of an image"
        raise UserError(
            f"hub {dataset!r}: {len(odd)} entries are {what}: {shown([str(entry) for entry in odd], 5)}; remove them"
        )
    stamps = [(str(file.resolve()), file_stamp(file)) for file in local]
    kind = "hub folder" if local else "hub"
    identity = json.dumps([kind, dataset, config_name, split, revision, stamps])
    source = str(folder) if local else dataset
    opened = partial(_open_hub, source, config_name, split=split, revision=revision, cache_dir=str(scratch))
    return Table(f"hub {dataset!r}, split {split!r}", identity, opened, folder if local else None)


def _open_hub(source: str, config_name: str | None, **where: Any) -> Opened:
    """The split as undecoded rows."""
    from datasets import Image, load_dataset  # here, because the import takes a second

    try:
        dataset = load_dataset(source, config_name, streaming=True, **where)
    except (OSError, ValueError) as error:
        raise UserError(f"hub {source!r}: cannot be opened ({error})") from error
    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(column, Image(decode=False))
    tables = dataset.with_format("arrow").iter(batch_size=ROWS)
    batches = (batch for table in tables for batch in table.combine_chunks().to_batches())
    if dataset.features is not None:
        return dataset.features.arrow_schema, _class_names(dataset.features.to_dict()), batches
    first = next(batches, None)
    return (pa.schema([]), {}, []) if first is None else (first.schema, {}, chain([first], batches))


def stored(table: Table, columns: Columns, cache_folder: Path | None) -> Stored:
    """The stored copy of a table, made if there is none; without a cache it goes when the process ends.

    Raises:
        UserError: the table cannot be read, columns are missing or of a wrong type, the copy cannot be written, or it
            is damaged.
    """
    identity = hashlib.sha256(json.dumps([table.identity, *astuple(columns)]).encode()).hexdigest()
    path = work_folder(cache_folder) / f"{identity[:32]}.arrow"
    if not path.exists():
        _write(table, columns, path)
    file = str(path)
    with reading(file, "; remove the file, it is made anew"):
        reader = pa.ipc.open_file(pa.memory_map(file))
        facts = json.loads(reader.schema.metadata[b"facts"])
        rows = []
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            plain = zip(*(batch.column(name).to_pylist() for name in SCHEMA.names[1:]), strict=True)
            for place, (digest, *texts) in enumerate(plain):
                source = RowSource(file, batch=number, row=place, digest=digest.hex() if digest else "")
                rows.append((source, *texts))
    return Stored(table.title, rows, facts["numbered"], facts["names"])


def _write(table: Table, columns: Columns, file: Path) -> None:
    """Write the copy beside its place, then put it there whole."""
    with reading(table.title):
        schema, names, batches = table.opened()
    if problems := _column_problems(table.title, schema, columns):
        raise UserError(*problems)
    facts = {"numbered": not _is_text(schema.field(columns.label).type), "names": names.get(columns.label, [])}
    kept = SCHEMA.with_metadata({"facts": json.dumps(facts)})
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, kept) as writer:
            for batch in _stored_batches(table, batches, columns, names.get(columns.domain, []), kept):
                writer.write_batch(batch)
        os.replace(part, file)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file.parent}: no copy of {table.title} can be written there ({reason})") from error
    finally:
        with suppress(OSError):  # what has made writing fail keeps it there, or has kept it from being made
            part.unlink()


def _column_problems(title: str, schema: pa.Schema, columns: Columns) -> list[str]:
    """Columns that a table does not have, or that hold something else than they should."""
    problems = []
    for kind, name in zip(("image", "label", "domain", "key"), astuple(columns), strict=True):
        if not name:
            continue
        if name not in schema.names:
            problems.append(f"{title}: {kind}_column: {unknown_name('column', name, schema.names)}")
            continue
        holds = schema.field(name).type
        if kind == "image" and not _holds_bytes(holds):
            what = "image bytes, or a struct with a field of bytes"
            problems.append(f"{title}: column {name!r} holds {holds}; expected {what}")
        elif kind != "image" and not (_is_text(holds) or kinds.is_integer(holds) or kinds.is_floating(holds)):
            problems.append(f"{title}: column {name!r} holds {holds}; expected text or whole numbers")
    return problems


def _holds_bytes(kind: pa.DataType) -> bool:
    if kinds.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _image_bytes(images: Any, folder: Path | None) -> Any:
    """The bytes of a column of images; those that a dataset in a folder has by their paths are read."""
    if not kinds.is_struct(images.type):
        return pc.cast(images, pa.binary())
    held = pc.cast(pc.struct_field(images, "bytes"), pa.binary())
    if folder is None or "path" not in [field.name for field in images.type] or not held.null_count:
        return held
    paths = pc.struct_field(images, "path").to_pylist()
    read = (
        _file_bytes(folder, path) if one is None and path else one
        for one, path in zip(held.to_pylist(), paths, strict=True)
    )
    return pa.array(list(read), pa.binary())


def _file_bytes(folder: Path, path: str) -> bytes | None:
    """A file of a dataset's folder; None where it cannot be read, so that its row is named as one without an image."""
    if problem := link_problem(Path(os.path.realpath(folder)), path):
        raise UserError(problem)
    try:
        return FileSource(path).read()
    except Damaged:
        return None


def _stored_batches(
    table: Table, batches: Iterable[Any], columns: Columns, domain_names: list[str], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Rows as they are stored; what goes wrong in here is the table's fault, not that of the place of the copy."""
    title = table.title
    with reading(title):
        for batch in batches:
            images = _image_bytes(batch.column(columns.image), table.folder)
            digests = [hashlib.sha256(image.as_buffer()).digest() if image.is_valid else None for image in images]
            texts = [pa.nulls(batch.num_rows, pa.string())] * 3
            for place, name in enumerate((columns.label, columns.domain, columns.key)):
                if name:
                    column = batch.column(name)
                    if kinds.is_floating(column.type):  # whole numbers that a null has made floats
                        column = pc.cast(column, pa.int64())
                    texts[place] = pc.cast(column, pa.string())
            if domain_names:
                numbers = [None if value is None else int(value) for value in texts[1].to_pylist()]
                wrong = [str(one) for one in numbers if one is not None and not 0 <= one < len(domain_names)]
                if wrong:
                    held = f"{title}: column {columns.domain!r} holds {shown(wrong, 5)}"
                    raise UserError(f"{held}; expected numbers of its {len(domain_names)} domains, from 0")
                texts[1] = pa.array([None if one is None else domain_names[one] for one in numbers], pa.string())
            yield pa.record_batch([images, pa.array(digests, pa.binary(32)), *texts], schema=schema)


_temporary = cache(partial(tempfile.TemporaryDirectory, prefix="clrft-tables-"))  # removed when the process ends


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
