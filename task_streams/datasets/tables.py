"""Streams from tables of images: parquet files, or a dataset of the Hugging Face hub.

A row holds the bytes of an image file (as such, or in a struct with a field ``bytes``, as the ``datasets`` library
keeps images), a class name or number and, if asked for, a domain. An item's key is ``<split>/<key column>``; without
a key column ``<split>/<domain>/<class>/<start of the image's SHA-256>``, which stays the same however rows are
ordered or spread over files. ``split`` and ``domain`` are left out where there is one only.
Absent on purpose: labels in several columns, and images that a table merely has paths of.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, StrictStr

from task_streams.config import SourceCilConfig, SourceConfig, SourceDilConfig
from task_streams.errors import UserError, shown
from task_streams.registry import StreamSpec
from task_streams.scenarios.classification import labelled_stream
from task_streams.sources.layout import read_text, shared_names
from task_streams.sources.records import Found, Record, Split, Workspace
from task_streams.types import TaskStream

if TYPE_CHECKING:
    from task_streams.sources.tables import Columns, Stored

DIGEST_SHOWN = 16  # hex digits of a SHA-256 in a key
Texts = Annotated[str | tuple[StrictStr, ...] | None, Field(title="text or a list of texts, or null")]
ClassNames = Annotated[
    str | tuple[StrictStr, ...] | dict[str, str] | None,
    Field(title='a list of texts, a file of them, new names by present ones (e.g. {"4": four}), or null'),
]


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
    class_names: ClassNames = field(default=None, hash=False)
    """Names of numbered classes: a list, or a file of them (.json, or one a line); or new names by present ones."""

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


def table_stream(config: TableCilConfig | TableDilConfig, order_seed: int, workspace: Workspace) -> TaskStream:
    """Stream of a table; every row of it is an item, and none has a split when test items are held out."""
    # here, because the import of pyarrow takes a second
    from task_streams.sources.tables import Columns, hub_table, parquet_tables, stored, work_folder

    name, domain = ("table_dil", config.domain_column) if isinstance(config, TableDilConfig) else ("table_cil", "")
    columns = Columns(config.image_column, config.label_column, domain, config.key_column or "")
    renames = config.class_names if isinstance(config.class_names, dict) else {}
    given = () if renames else _given_names(config.class_names)
    if config.hub:
        scratch = work_folder(workspace.cache)
        splits = [config.train_split] + ([config.test_split] if config.test_split else [])
        tables = [[hub_table(config.hub, config.config_name, split, config.revision, scratch)] for split in splits]
    else:
        files = {"train": config.train, "test": config.test}
        listed = {field: [value] if isinstance(value, str) else list(value or ()) for field, value in files.items()}
        tables = [parquet_tables(field, patterns) for field, patterns in listed.items()]
    train, test = tables[0], [table for more in tables[1:] for table in more]
    train_split: Split = "train" if test else ""
    parts: list[tuple[Split, Stored]] = []
    problems: list[str] = []
    for split, table in [(train_split, table) for table in train] + [("test", table) for table in test]:
        try:
            parts.append((split, stored(table, columns, workspace.cache)))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*dict.fromkeys(problems))
    records: list[Record] = []
    count: Counter[str] = Counter()
    for split, part in parts:
        whole, wrong = _records(split, part, columns, given, renames)
        problems += wrong
        for record in whole:
            count[record.key] += 1
            if not columns.key and count[record.key] > 1:  # same image, same class, so any may be the first
                record = replace(record, key=f"{record.key}~{count[record.key]}")
            records.append(record)
    if problems and not records:  # what would be said of a stream of nothing would mislead
        raise UserError(*problems)
    twice = sorted(key for key, times in count.items() if times > 1)
    if columns.key and twice:
        problems.append(f"{len(twice)} keys are used more than once: {shown(twice)}")
    found = Found(tuple(records), (), tuple(problems))
    return labelled_stream(name, lambda _: found, config, order_seed, workspace)


def _records(
    split: Split, table: "Stored", columns: "Columns", given: tuple[str, ...], renames: Mapping[str, str]
) -> tuple[list[Record], list[str]]:
    """A record of every row that has all that is asked for but an image, and what is wrong with labels and rows.

    Numbers without names of the table's own are names in ``renames``, which the stream is then known by.
    """
    names = given or table.names
    numbered = table.numbered and (bool(names) or not renames)
    column = f"{table.title}: column {columns.label!r}"
    problems = []
    if numbered and not names:
        return [], [f"{column} holds class numbers without names; give class_names, a list or a file"]
    if numbered:
        shared = shared_names({str(number): name for number, name in enumerate(names)})
        problems += [f"{'class_names' if given else column}: {problem}" for problem in shared]
    elif given:
        remedy = 'new names by these, e.g. class_names: {"4": four}, or no class_names'
        problems.append(f"{column} holds class names already; expected {remedy}")
    records: list[Record] = []
    lacking: dict[str, list[str]] = {}
    for number, (source, given_label, given_domain, key) in enumerate(table.rows, start=1):
        label, domain, digest = given_label or "", given_domain or "", source.digest
        if numbered and label:
            label = names[int(label)] if 0 <= int(label) < len(names) else ""
        complaint = ""
        if not given_label:
            complaint = "no label"
        elif not label:
            complaint = f"a label outside of 0 to {len(names) - 1}"
        elif table.numbered and not numbered and label not in renames:
            complaint = "a class number that has no name in class_names"
        elif columns.domain and not domain:
            complaint = "no domain"
        elif columns.key and not key:
            complaint = f"no {columns.key}"
        if complaint:
            lacking.setdefault(complaint, []).append(key or f"row {number}")
            continue
        name = key or (digest[:DIGEST_SHOWN] if digest else f"row {number} of {Path(table.title).name}")
        places = (split, name) if key else (split, domain, label, name)
        records.append(Record("/".join(filter(None, places)), label, source, split, domain, digest))
    problems += [f"{table.title}: {len(at)} rows have {what}: {shown(at)}" for what, at in lacking.items()]
    return records, problems


def _given_names(value: Any) -> tuple[str, ...]:
    """Class names as a config gives them: none, a list, or a file that holds them."""
    names = value or ()
    if isinstance(value, str):
        try:
            text = read_text(Path(value).expanduser())
            names = json.loads(text) if value.endswith(".json") else text.rstrip().splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"class_names {value!r}: expected a list, or a file of names; {error}") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"class_names {value!r}: expected a list of texts; found {type(names).__name__}")
    if empty := [str(place) for place, name in enumerate(names) if not name.strip()]:
        expected = "expected one for each, in the order of their numbers from 0"
        raise UserError(f"class_names {value!r}: no name for class {shown(empty)}; {expected}")
    return tuple(name.strip() for name in names)


LICENCE = "that of the table"
CITATION = "none: a table of your own; for a hub dataset its card says"
CIL = StreamSpec(
    TableCilConfig, table_stream, "a parquet file or hub dataset, new classes in each task", LICENCE, CITATION
)
DIL = StreamSpec(
    TableDilConfig,
    table_stream,
    "a parquet file or hub dataset by domain, a new domain in each task",
    LICENCE,
    CITATION,
)
