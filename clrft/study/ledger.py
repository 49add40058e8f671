"""Published figures beside measured ones: RaPO's tables (arXiv 2605.09640), and runs of the same streams and methods.

A run stands beside a published row if its stream, number of tasks and method are that row's. Every setting in which it
differs from the published protocol, as the shipped presets hold it, is told with both values; what no setting tells is
in ``STANDING``. A sweep's rows are found in the same way.
Deliberately absent: tables (``clrft.study.ledger_tables``), and a measured figure without its differences.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from clrft.config import RunConfig, build_config, parse_overrides
from clrft.runs import RunRecord
from clrft.study.differences import FREE, facts, flatten
from clrft.study.groups import Group, Summary, summarise
from clrft.sweep import load_sweep, sweep_file
from eval.matrix import POOLED_BOX_AP
from eval.metrics import undefined
from task_streams.presets import order_seeds

SOURCE = "arXiv 2605.09640"
TABLES = Path(__file__).resolve().parent / "paper" / "tables.csv"
MAIN_TABLES = (1, 2, 3, 4)  # the main results; the others are ablations, and other base models
# Stream preset and seeds of a data set in so many tasks; None where the paper's orders are not known.
SETTINGS: dict[tuple[str, int], tuple[str, str | None]] = {
    ("ImageNet-R", 10): ("imagenet_r_10x20", "rapo_image"),
    ("ImageNet-R", 20): ("imagenet_r_20x10", "rapo_image"),
    ("ImageNet-A", 10): ("imagenet_a_10x20", "rapo_image"),
    ("ImageNet-A", 20): ("imagenet_a_20x10", "rapo_image"),
    ("TinyImageNet", 10): ("tinyimagenet_10x20", "rapo_image"),
    ("TinyImageNet", 20): ("tinyimagenet_20x10", "rapo_image"),
    ("CUB-200", 10): ("cub200_10x20", "rapo_image"),
    ("CUB-200", 20): ("cub200_20x10", "rapo_image"),
    ("COCO", 5): ("coco_5x16", "rapo_detection_5"),
    ("COCO", 10): ("coco_10x8", "rapo_detection_10"),
    ("UCF-101", 5): ("ucf101_5", "rapo_video"),
    ("UCF-101", 10): ("ucf101_10", "rapo_video"),
    ("Kinetics-200", 5): ("kinetics200_5", "rapo_video"),
    ("Kinetics-200", 10): ("kinetics200_10", "rapo_video"),
    ("DomainNet", 6): ("domainnet", None),
    ("OfficeHome", 4): ("officehome", None),
    ("PascalSeries", 4): ("pascal_series", None),
}
PUBLISHED_TESTS = {"evaluate": {"decoding": "sampled", "temperature": 0.6, "top_p": 0.95}}
STANDING = (
    "The released code leaves out the last incomplete batch of an epoch (96 of 100 images of a task are used); here "
    "every image is.",
    "Published test answers are sampled once (T 0.6, top-p 0.95); evaluate.decoding=sampled does that here.",
    "The images of the few-shot draw are the released ones only with stream.shots_list.",
    "The paper does not state the strengths of L2, EWC and LwF; here they are this project's defaults.",
)
WHY = {
    "model": "another model: the figures are not expected to agree",
    "train": "another budget or optimizer",
    "stream": "other data, draw or tasks",
    "evaluate": "another way of testing",
    "method": "another setting of the method",
    "seeds": "other class orders",
    "measure": "another measure: the figures are not comparable",
}


@dataclass(frozen=True, slots=True)
class Published:
    """One row of a published table, as fractions; None where the paper has no figure.

    Attributes:
        source: paper and table.
        table: number of the table.
        dataset, tasks, method: as the paper names them; of an ablation with what is varied.
        run: the same method as ``method=`` takes it.
        model: preset of the base model.
        settings: in what the row's setting is not the protocol's, words as on the command line.
        acc, acc_std: last accuracy (box AP for objects) and its standard deviation over three class orders.
        forget, forget_std: forgetting, likewise.
    """

    source: str
    table: int
    dataset: str
    tasks: int
    method: str
    run: str
    model: str
    settings: tuple[str, ...]
    acc: float
    acc_std: float | None
    forget: float | None
    forget_std: float | None

    @property
    def stream(self) -> str:
        """Name of the stream's preset."""
        return SETTINGS[self.dataset, self.tasks][0]


@dataclass(frozen=True, slots=True)
class Departure:
    """A setting in which a run or sweep is not as published."""

    name: str
    published: str
    here: str
    why: str


@dataclass(frozen=True, slots=True)
class Measured:
    """Runs of a published row's stream and method.

    Attributes:
        label: of the group of runs.
        seeds: class orders that were run.
        acc, forget: over these orders.
        departures: in what they are not as published; empty for the same setting.
    """

    label: str
    seeds: tuple[int, ...]
    acc: Summary
    forget: Summary
    departures: tuple[Departure, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A published row and what was measured of it."""

    published: Published
    measured: tuple[Measured, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """Published rows that a shipped sweep would run, and in what it is not as published."""

    sweep: str
    rows: tuple[Published, ...]
    departures: tuple[Departure, ...]


@cache
def published_rows(path: Path = TABLES) -> tuple[Published, ...]:
    """The published figures, in the order of the paper."""
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(_published(row) for row in csv.DictReader(file))


def main_rows() -> tuple[Published, ...]:
    """The published figures of the main results."""
    return tuple(row for row in published_rows() if row.table in MAIN_TABLES)


def ledger(groups: Sequence[Group]) -> list[Entry]:
    """Every row of the main results, with the groups of runs that are of its stream and method."""
    entries = []
    for row in main_rows():
        beside = tuple(_measured(row, group) for group in groups if _is_of(row, group))
        entries.append(Entry(row, beside))
    return entries


def planned(names: Sequence[str]) -> list[Planned]:
    """What of the published tables the sweeps of these names would run; those that would run none are left out."""
    streams = {row.stream for row in main_rows()}
    found = []
    for name in names:
        plan = sweep_file(name)
        parts = [plan, *(plan.get("parts") or ())]
        if not streams & {str(stream) for part in parts for stream in part.get("streams") or ()}:
            continue
        cells = {(cell.stream_label, cell.method_label): cell for cell in load_sweep(name, {})}
        rows = tuple(row for row in main_rows() if (row.stream, row.run) in cells)
        apart = (departures(row, _flat(cells[row.stream, row.run])) for row in rows)
        found.append(Planned(name, rows, tuple(dict.fromkeys(one for some in apart for one in some))))
    return found


def departures(row: Published, settings: Mapping[str, str], seeds: Sequence[int] = ()) -> tuple[Departure, ...]:
    """In what a run is not as published.

    Args:
        row: the published row.
        settings: the run's, by dotted name.
        seeds: class orders that were run; none to leave them aside.
    """
    expected = _flat(protocol(row))
    found = [
        Departure(name, expected[name], settings.get(name, "not recorded"), WHY[name.partition(".")[0]])
        for name in expected
        if settings.get(name) != expected[name] and name not in FREE
    ]
    _, preset = SETTINGS[row.dataset, row.tasks]
    if seeds and preset is not None and tuple(seeds) != order_seeds(preset):
        there, here = (", ".join(map(str, some)) for some in (order_seeds(preset), seeds))
        found.append(Departure("seeds", there, here, WHY["seeds"]))
    return tuple(found)


def protocol(row: Published) -> RunConfig:
    """The published setting of a row, as far as settings can tell."""
    return _protocol(row.stream, row.run, row.model, row.settings)


@cache
def _protocol(stream: str, method: str, model: str, settings: tuple[str, ...]) -> RunConfig:
    return build_config(stream, method, model, 1993, PUBLISHED_TESTS, parse_overrides(settings))


def _flat(config: RunConfig) -> dict[str, str]:
    return _compared(flatten(config.to_dict()))


def _compared(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings that are compared: names, places and what is tested beside the stream are not."""
    aside = ("run.", "seed", "stream.label", "method.label", "model.label", "evaluate.probe")
    return {name: value for name, value in settings.items() if not name.startswith(aside)}


def _is_of(row: Published, group: Group) -> bool:
    """Whether runs are of a row's data, number of tasks and method."""
    stream = group.runs[0].config.get("stream") or {}
    same = stream.get("name") == protocol(row).stream_name and len(group.runs[0].matrix) == row.tasks
    return same and group.method == row.run


def _measured(row: Published, group: Group) -> Measured:
    absent = summarise({run.seed: undefined("not measured in this run") for run in group.runs})
    apart = [(*_other_measure(row, run), *departures(row, _compared(flatten(run.config)))) for run in group.runs]
    seeds = tuple(run.seed for run in group.runs)
    last = [one for one in departures(row, _compared(flatten(group.runs[0].config)), seeds) if one.name == "seeds"]
    return Measured(
        label=group.label,
        seeds=seeds,
        acc=group.metrics.get(group.final_metric, absent),
        forget=group.metrics.get("forgetting", absent),
        departures=tuple(dict.fromkeys([*(one for some in apart for one in some), *last])),
    )


def _other_measure(row: Published, run: RunRecord) -> list[Departure]:
    """That a run of COCO is from before its AP was pooled."""
    here = facts(run)["measure"]
    if row.dataset != "COCO" or here == POOLED_BOX_AP:
        return []
    return [Departure("measure", POOLED_BOX_AP, here, WHY["measure"])]


def _published(row: Mapping[str, str]) -> Published:
    others = {name: float(row[name]) / 100 if row[name] else None for name in ("acc_std", "forget", "forget_std")}
    return Published(
        source=row["source"],
        table=int(row["table"]),
        dataset=row["dataset"],
        tasks=int(row["tasks"]),
        method=row["method"],
        run=row["run"],
        model=row["model"],
        settings=tuple(row["settings"].split()),
        acc=float(row["acc"]) / 100,
        **others,
    )
