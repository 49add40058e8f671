"""Streams from tables of images: parquet files, or a dataset of the Hugging Face hub.

A row holds the bytes of an image file (as such, or in a struct with a field ``bytes``, as the ``datasets`` library
keeps images), a class name or number and, if asked for, a domain. An item's key is ``<split>/<key column>``; without
a key column ``<split>/<domain>/<class>/<start of the image's SHA-256>``, which stays the same however rows are
ordered or spread over files. ``split`` and ``domain`` are left out where there is one only.
Absent on purpose: labels in several columns, and images that a table merely has paths of.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, StrictStr

from task_streams.config import SourceCilConfig, SourceConfig, SourceDilConfig
from task_streams.errors import UserError, shown
from task_streams.registry import StreamSpec
from task_streams.scenarios.classification import cil_stream, dil_stream
from task_streams.sources.layout import shared_names
from task_streams.sources.records import Found, Record, Split, Workspace
from task_streams.types import TaskStream

if TYPE_CHECKING:
    from task_streams.sources.tables import Columns, Row

DIGEST_SHOWN = 16  # hex digits of a SHA-256 in a key
Texts = Annotated[str | tuple[StrictStr, ...] | None, Field(title="text or a list of texts, or null")]


@dataclass(frozen=True, kw_only=True)
class TableConfig(SourceConfig):
    """Which table, and what its columns hold."""

    train: Texts = None
    """Parquet file to train on: a path, a pattern such as data/train-*.parquet, or a list of them."""
    test: Texts = None
    """Parquet file to test on, given like train; null = hold test items out of train."""
    hub: str | None = None
    """Instead of train: id of a dataset on the Hugging Face hub, or a folder that the datasets library reads."""
    config_name: str | None = None
    """Configuration of the hub dataset; null = its default."""
    revision: str | None = None
    """Branch, tag or commit of the hub dataset; null = its main branch as it is when first read."""
    train_split: str = "train"
    """Split of the hub dataset to train on."""
    test_split: str | None = "test"
    """Split of the hub dataset to test on; null = hold test items out of train_split."""
    image_column: str = "image"
    """Column with the bytes of image files, or with structs that have a field bytes."""
    label_column: str = "label"
    """Column with class names, or with class numbers from 0."""
    key_column: str | None = None
    """Column with a name for each item, unique in its split; null = keys are made of class and image content."""
    class_names: Texts = None
    """Names of numbered classes: a list, or a .json (list) or text file (one a line); null = as kept in the table."""

    def problems(self) -> list[str]:
        given = [name for name in ("train", "hub") if getattr(self, name)]
        found = super().problems()
        if len(given) != 1:
            found.append(f"{' and '.join(given) or 'neither train nor hub'} given; expected train (parquet) or hub")
        for_hub = [f.name for f in fields(TableConfig) if f.name in HUB_FIELDS and getattr(self, f.name) != f.default]
        if for_hub and not self.hub:
            found.append(f"{', '.join(for_hub)} given without hub; expected only with a hub dataset")
        if self.test and self.hub:
            found.append("test given with hub; name the split with test_split instead")
        return found


HUB_FIELDS = ("config_name", "revision", "train_split", "test_split")


@dataclass(frozen=True, kw_only=True)
class TableCilConfig(TableConfig, SourceCilConfig):
    """A table of labelled images, new classes in each task."""


@dataclass(frozen=True, kw_only=True)
class TableDilConfig(TableConfig, SourceDilConfig):
    """A table of labelled images in several domains, a new domain in each task."""

    domain_column: str = "domain"
    """Column with the domain of each row."""


def table_cil(config: TableCilConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Class-incremental stream of a table."""
    return cil_stream("table_cil", _read_tables(config, "", workspace), config, order_seed, workspace)


def table_dil(config: TableDilConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Domain-incremental stream of a table."""
    return dil_stream("table_dil", _read_tables(config, config.domain_column, workspace), config, order_seed, workspace)


def _read_tables(config: TableConfig, domain_column: str, workspace: Workspace) -> Found:
    """Every row of the tables of a config; none has a split when test items are held out."""
    # here, because the import of pyarrow takes a second
    from task_streams.sources.tables import Columns, hub_table, parquet_tables, rows, store, work_folder

    columns = Columns(config.image_column, config.label_column, domain_column, config.key_column or "")
    names = _given_names(config.class_names)
    if config.hub:
        scratch = work_folder(workspace.cache)
        splits = [config.train_split] + ([config.test_split] if config.test_split else [])
        found = [[hub_table(config.hub, config.config_name, split, config.revision, scratch)] for split in splits]
    else:
        given = [[value] if isinstance(value, str) else list(value or ()) for value in (config.train, config.test)]
        found = [parquet_tables(name, paths) for name, paths in zip(("train", "test"), given, strict=True)]
    test = [table for tables in found[1:] for table in tables]
    train_split: Split = "train" if test else ""
    parts: list[_Part] = []
    problems: list[str] = []
    for split, table in [(train_split, table) for table in found[0]] + [("test", table) for table in test]:
        try:
            parts.append(_Part(split, table.title, columns, names, *rows(store(table, columns, workspace.cache))))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*dict.fromkeys(problems))
    records: list[Record] = []
    count: Counter[str] = Counter()
    for record in (record for part in parts for record in part.records()):
        count[record.key] += 1
        if not columns.key and count[record.key] > 1:  # same image, same class, so any may be the first
            record = replace(record, key=f"{record.key}~{count[record.key]}")
        records.append(record)
    problems = [problem for part in parts for problem in part.problems()]
    twice = sorted(key for key, times in count.items() if times > 1)
    if columns.key and twice:
        problems.append(f"{len(twice)} keys are used more than once: {shown(twice)}")
    return Found(tuple(records), (), tuple(problems))


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one table on their way to records."""

    split: Split
    title: str
    columns: "Columns"
    given_names: tuple[str, ...]
    rows: "list[Row]"
    numbered: bool
    kept_names: list[str]

    @property
    def names(self) -> Sequence[str]:
        return self.given_names or self.kept_names

    def label(self, row: "Row") -> str:
        """Class name of a row; empty when it has none."""
        if not row.label or not self.numbered:
            return row.label or ""
        return self.names[int(row.label)] if 0 <= int(row.label) < len(self.names) else ""

    def records(self) -> Iterator[Record]:
        """A record of every row that has a class, and all else that is asked for except an image."""
        from task_streams.sources.tables import RowSource

        for number, row in enumerate(self.rows, start=1):
            if self.complaint(row):
                continue
            label, domain, digest = self.label(row), row.domain or "", row.digest or ""
            name = row.key or (digest[:DIGEST_SHOWN] if digest else f"row {number} of {Path(self.title).name}")
            places = (self.split, name) if row.key else (self.split, domain, label, name)
            source = RowSource(row.file, row.batch, row.row, digest)
            yield Record("/".join(filter(None, places)), label, source, self.split, domain, digest)

    def complaint(self, row: "Row") -> str:
        """What a row lacks; empty when it is whole."""
        if not row.label:
            return "no label"
        if not self.label(row):
            return f"a label outside of 0 to {len(self.names) - 1}" if self.names else ""
        if self.columns.domain and not row.domain:
            return "no domain"
        return f"no {self.columns.key}" if self.columns.key and not row.key else ""

    def problems(self) -> list[str]:
        """Sentences about labels without names and about rows that lack something."""
        column = f"{self.title}: column {self.columns.label!r}"
        found = []
        if self.numbered and not self.names:
            return [f"{column} holds class numbers without names; give class_names, a list or a file"]
        if self.given_names and not self.numbered:
            found.append(f"{column} holds class names already; expected no class_names")
        if self.numbered:
            origin = "class_names" if self.given_names else column
            found += [
                f"{origin}: {problem}" for problem in shared_names({str(i): name for i, name in enumerate(self.names)})
            ]
        lacking: dict[str, list[str]] = {}
        for number, row in enumerate(self.rows, start=1):
            if complaint := self.complaint(row):
                lacking.setdefault(complaint, []).append(row.key or f"row {number}")
        return found + [f"{self.title}: {len(at)} rows have {what}: {shown(at)}" for what, at in lacking.items()]


def _given_names(value: Any) -> tuple[str, ...]:
    """Class names as a config gives them: none, a list, or a file that holds them."""
    if not isinstance(value, str):
        return tuple(value or ())
    try:
        text = Path(value).expanduser().read_text(encoding="utf-8-sig")
        names = json.loads(text) if value.endswith(".json") else text.splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"class_names {value!r}: expected a list, or a file of names; {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"class_names {value!r}: expected a list of texts; found {type(names).__name__}")
    return tuple(name.strip() for name in names if name.strip())


LICENCE = "that of the table"
CITATION = "none: a table of your own; for a hub dataset its card says"
CIL = StreamSpec(
    TableCilConfig, table_cil, "a parquet file or hub dataset, new classes in each task", LICENCE, CITATION
)
DIL = StreamSpec(
    TableDilConfig, table_dil, "a parquet file or hub dataset by domain, a new domain in each task", LICENCE, CITATION
)
