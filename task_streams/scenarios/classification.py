"""Streams of labelled images or clips: what a layout found, as tasks. Every classification layout ends here."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from task_streams.config import SourceDilConfig
from task_streams.errors import UserError, unknown_name
from task_streams.labels import shown_form
from task_streams.scenarios.draw import Pool
from task_streams.scenarios.shots import listed_records, unused_listed
from task_streams.scenarios.split import build_cil, build_dil
from task_streams.sources.clips import ClipDecoder
from task_streams.sources.images import IMAGES
from task_streams.sources.layout import as_shown, renamed
from task_streams.sources.library import Library, all_problems
from task_streams.sources.records import Decoder, Found, Record, Workspace
from task_streams.types import TaskStream


def labelled_stream(
    name: str,
    find: Callable[[Any], Found],
    config: Any,
    order_seed: int,
    workspace: Workspace,
    decoder: Decoder | ClipDecoder = IMAGES,
) -> TaskStream:
    """Stream of what ``find`` finds in a layout for some settings.

    New classes in each task with a ``SourceCilConfig``, one domain in each with a ``SourceDilConfig``. With a list of
    shots its items are all that is left to train on.

    Raises:
        UserError: problems of the layout, damaged items, too few classes, an unknown domain, a list that does not
            resolve.
    """
    found, by_domain = as_shown(find(config)), isinstance(config, SourceDilConfig)
    library = Library(workspace, config.on_damaged, decoder)
    with all_problems(found, library):
        records, settings = found.records, config.draw_settings
        if config.shots_list is not None:
            records, settings = listed_records(config.shots_list, records), {**settings, "shots": None}
        names = getattr(config, "class_names", None)  # of one's own data; a table may have a list instead
        if isinstance(names, dict) and names:  # now, since lists of shots have the names on disk
            records = renamed(records, names)
        splits: dict[str, dict[str, list[Record]]] = {}  # by domain
        for record in records:
            splits.setdefault(record.domain if by_domain else "", {}).setdefault(record.split, []).append(record)
        pools = {  # a source with splits has ``train`` and ``test``, one without neither
            domain: Pool(some[""]) if "" in some else Pool(some.get("train", ()), some.get("test", ()))
            for domain, some in splits.items()
        }
        settings |= {"admit": library.admit, "distinct": config.on_copies == "skip", "notes": found.notes}
        if by_domain:
            there = sorted(pools)
            wanted = [shown_form(name) for name in config.domains]
            if unknown := [unknown_name("domain", name, there) for name in wanted if name not in there]:
                raise UserError(*unknown)
            pools = {domain: pools[domain] for domain in wanted or there}
            seeded = config.domain_order == "seeded"
            stream = build_dil(name, pools, order_seed=order_seed, seeded_order=seeded, **settings)
        else:
            pool = pools.get("", Pool(()))
            stream = build_cil(name, pool, sizes=config.sizes, order_seed=order_seed, **settings)
    unused: list[str] = []
    if config.shots_list is not None:
        trained = [record.domain if by_domain else record.label for record in records if record.split == "train"]
        used = {task.name for task in stream.tasks} if by_domain else set(stream.labels)
        others = sum(value not in used for value in trained)
        unused = unused_listed(len(trained), others, "domains" if by_domain else "classes")
    return replace(stream, notes=(*stream.notes, *unused, *library.report()[1]))
