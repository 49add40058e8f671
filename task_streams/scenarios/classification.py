"""Streams of labelled images or clips: what a layout found, as tasks. Every classification layout ends here."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from task_streams.config import SourceCilConfig, SourceConfig, SourceDilConfig
from task_streams.errors import UserError, unknown_name
from task_streams.scenarios.draw import Pool
from task_streams.scenarios.shots import listed_records, unused_listed
from task_streams.scenarios.split import build_cil, build_dil
from task_streams.sources.images import ImageDecoder
from task_streams.sources.library import Library, all_problems
from task_streams.sources.records import Decoder, Found, Record, Workspace
from task_streams.types import TaskStream


def cil_stream(
    name: str,
    found: Found,
    config: SourceCilConfig,
    order_seed: int,
    workspace: Workspace,
    decoder: Decoder | None = None,
) -> TaskStream:
    """Class-incremental stream of what a layout found.

    Raises:
        UserError: problems of the layout, damaged items, too few classes, a list that does not resolve.
    """
    library = Library(workspace, config.on_damaged, decoder or ImageDecoder())
    with all_problems(found, library):
        records, settings = _training_items(found.records, config)
        stream = build_cil(
            name,
            _pool(records),
            sizes=config.sizes,
            order_seed=order_seed,
            admit=library.admit,
            distinct=config.on_copies == "skip",
            notes=found.notes,
            **settings,
        )
    return replace(stream, notes=(*stream.notes, *_unused_notes(config, records, stream), *library.notes))


def dil_stream(
    name: str,
    found: Found,
    config: SourceDilConfig,
    order_seed: int,
    workspace: Workspace,
    decoder: Decoder | None = None,
) -> TaskStream:
    """Domain-incremental stream of what a layout found, one task per domain of its records.

    Raises:
        UserError: problems of the layout, damaged items, an unknown domain, a list that does not resolve.
    """
    library = Library(workspace, config.on_damaged, decoder or ImageDecoder())
    with all_problems(found, library):
        records, settings = _training_items(found.records, config)
        there = sorted({record.domain for record in records})
        if unknown := [unknown_name("domain", name, there) for name in config.domains if name not in there]:
            raise UserError(*unknown)
        stream = build_dil(
            name,
            {
                domain: _pool(record for record in records if record.domain == domain)
                for domain in config.domains or there
            },
            order_seed=order_seed,
            seeded_order=config.domain_order == "seeded",
            admit=library.admit,
            distinct=config.on_copies == "skip",
            notes=found.notes,
            **settings,
        )
    return replace(stream, notes=(*stream.notes, *_unused_notes(config, records, stream), *library.notes))


def _unused_notes(config: SourceConfig, records: Iterable[Record], stream: TaskStream) -> list[str]:
    """How many items of a list of shots are of classes or domains that the stream does not use."""
    if config.shots_list is None:
        return []
    trained = [record for record in records if record.split == "train"]
    if stream.scenario == "dil":
        used = {task.name for task in stream.tasks}
        return unused_listed(len(trained), sum(record.domain not in used for record in trained), "domains")
    return unused_listed(len(trained), sum(record.label not in stream.labels for record in trained), "classes")


def _training_items(records: tuple[Record, ...], config: SourceConfig) -> tuple[tuple[Record, ...], dict[str, Any]]:
    """Records and draw settings; with a list of shots its items are all that is left to train on."""
    settings = config.draw_settings
    if config.shots_list is None:
        return records, settings
    return listed_records(config.shots_list, records), {**settings, "shots": None}


def _pool(records: Iterable[Record]) -> Pool:
    """Records by split: a source with splits has ``train`` and ``test``, one without neither."""
    splits: dict[str, list[Record]] = {}
    for record in records:
        splits.setdefault(record.split, []).append(record)
    if "" in splits:
        return Pool(splits[""])
    return Pool(splits.get("train", []), splits.get("test", []))
