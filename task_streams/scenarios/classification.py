"""Streams of labelled images or clips: what a layout found, as tasks. Every classification layout ends here."""

from collections.abc import Iterable
from dataclasses import replace

from task_streams.config import DrawSettings, SourceCilConfig, SourceConfig, SourceDilConfig
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
        records, settings = training_items(found.records, config)
        stream = build_cil(
            name,
            pool_of(records),
            sizes=config.sizes,
            order_seed=order_seed,
            admit=library.admit,
            distinct=config.on_copies == "skip",
            notes=found.notes,
            **settings,
        )
    return replace(stream, notes=(*stream.notes, *unused_notes(config, records, stream), *library.notes))


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
        records, settings = training_items(found.records, config)
        domains = chosen_domains(records, config.domains)
        stream = build_dil(
            name,
            {domain: pool_of(record for record in records if record.domain == domain) for domain in domains},
            order_seed=order_seed,
            seeded_order=config.domain_order == "seeded",
            admit=library.admit,
            distinct=config.on_copies == "skip",
            notes=found.notes,
            **settings,
        )
    return replace(stream, notes=(*stream.notes, *unused_notes(config, records, stream), *library.notes))


def unused_notes(config: SourceConfig, records: Iterable[Record], stream: TaskStream) -> list[str]:
    """How many items of a list of shots are of classes or domains that the stream does not use."""
    if config.shots_list is None:
        return []
    trained = [record for record in records if record.split == "train"]
    if stream.scenario == "dil":
        used = {task.name for task in stream.tasks}
        return unused_listed(len(trained), sum(record.domain not in used for record in trained), "domains")
    taught = set(stream.labels)
    return unused_listed(len(trained), sum(record.label not in taught for record in trained), "classes")


def training_items(records: tuple[Record, ...], config: SourceConfig) -> tuple[tuple[Record, ...], DrawSettings]:
    """Records and draw settings; with a list of shots its items are all that is left to train on.

    Raises:
        UserError: the list does not resolve.
    """
    settings = config.draw_settings
    if config.shots_list is None:
        return records, settings
    settings["shots"] = None
    return listed_records(config.shots_list, records), settings


def chosen_domains(records: Iterable[Record], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The domains to use, in the order given; all there are, sorted, when none is given.

    Raises:
        UserError: a domain that no record belongs to.
    """
    there = sorted({record.domain for record in records})
    if unknown := [unknown_name("domain", name, there) for name in wanted if name not in there]:
        raise UserError(*unknown)
    return tuple(wanted) or tuple(there)


def pool_of(records: Iterable[Record]) -> Pool:
    """Records by split: a source with splits has ``train`` and ``test``, one without neither."""
    splits: dict[str, list[Record]] = {}
    for record in records:
        splits.setdefault(record.split, []).append(record)
    if "" in splits:
        return Pool(splits[""])
    return Pool(splits.get("train", []), splits.get("test", []))
