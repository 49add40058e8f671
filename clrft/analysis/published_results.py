"""Published figures beside measured ones: RaPO's tables (arXiv 2605.09640), and runs of the same streams and methods.

A run stands beside the published rows that are nearest to it among those of its stream, number of tasks and method.
Every known way in which it is not as published is told with both sides: settings that differ from the published ones as
the shipped presets hold them, what its manifest says, and what no setting tells. A sweep's rows are found likewise.
Tables show percent, CSV holds fractions. Deliberately absent: a measured figure without its differences.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clrft.analysis.groups import Group, summarise
from clrft.analysis.render import csv_text
from clrft.analysis.table import (
    DASH,
    Column,
    Medium,
    Part,
    Sentence,
    Summary,
    Table,
    cells,
    number_cell,
    summary_cell,
    text_columns,
)
from clrft.config.run_config import RunConfig, build_config, parse_overrides
from clrft.config.sweeps import load_sweep, sweep_file
from clrft.runs.differences import FREE, facts, flatten
from eval.matrix import POOLED_BOX_AP
from eval.metrics import undefined
from task_streams.scenarios.order_seeds import order_seeds

SOURCE = "arXiv 2605.09640"
TABLES = Path(__file__).resolve().parent / "paper" / "tables.csv"
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
PUBLISHED_OPTIMIZER = "adamw_kahan"  # the released code's adamw_bf16
WHY = {
    "model": "another model, or weights held otherwise",
    "train": "another budget or optimizer",
    "stream": "other data, draw, words or tasks",
    "evaluate": "another way of testing",
    "method": "another setting of the method",
    "seeds": "other class orders",
    "measure": "another measure: the figures are not comparable",
    "trainer": "another implementation",
    "batches": "other batches",
    "draw": "other training images",
}
PENALTIES = ("sft+l2", "sft+ewc", "sft+lwf")
SUPERVISED = ("joint_sft", "sft")
SERIES = ("DomainNet", "OfficeHome", "PascalSeries")
CLIPS = ("UCF-101", "Kinetics-200")
CSV = (
    "source", "table", "dataset", "tasks", "method", "stream", "published_acc", "published_acc_std",
    "published_forgetting", "published_forgetting_std", "label", "n", "acc", "acc_std", "forgetting", "forgetting_std",
    "departures",
)  # fmt: skip
_SHOWN = 64  # characters of a value in a sentence


@dataclass(frozen=True, slots=True)
class Published:
    """One row of a published table, as fractions; None where the paper has no figure."""

    source: str  # paper and table
    table: int  # number of the table
    dataset: str  # as the paper names them; of an ablation with what is varied
    tasks: int
    method: str
    run: str  # the same method as ``method=`` takes it
    model: str  # preset of the base model
    settings: tuple[str, ...]  # in what the row's setting is not the protocol's, words as on the command line
    acc: float  # last accuracy (box AP for objects) and its standard deviation over three class orders
    acc_std: float | None
    forget: float | None  # forgetting, likewise
    forget_std: float | None

    @property
    def stream(self) -> str:
        """Name of the stream's preset."""
        return SETTINGS[self.dataset, self.tasks][0]


@dataclass(frozen=True, slots=True)
class Departure:
    """In what a run or sweep is not as published."""

    name: str
    published: str
    here: str

    @property
    def kind(self) -> str:
        """First part of the name."""
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        values = (self.here, self.published)
        here, published = (text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…" for text in values)
        return f"{self.name}: {here}, published: {published}"


@dataclass(frozen=True, slots=True)
class Measured:
    """Runs of a published row's stream and method."""

    label: str  # of the group of runs
    acc: Summary
    forget: Summary
    departures: tuple[Departure, ...]  # in what they are not as published; empty for the same setting


Beside = Mapping[Published, Sequence[Measured]]  # published rows, and what was measured of each


@dataclass(frozen=True, slots=True)
class Planned:
    """Published rows that a shipped sweep would run, and in what it is not as published."""

    sweep: str
    rows: tuple[Published, ...]
    departures: tuple[Departure, ...]


@cache
def published_rows(path: Path = TABLES) -> tuple[Published, ...]:
    """The published figures, in the order of the paper."""
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            fields: dict[str, Any] = {**row, "table": int(row["table"]), "tasks": int(row["tasks"])}
            fields["settings"] = tuple(row["settings"].split())
            for name in ("acc", "acc_std", "forget", "forget_std"):
                fields[name] = float(row[name]) / 100 if row[name] else None
            rows.append(Published(**fields))
    return tuple(rows)


def published_beside(groups: Sequence[Group]) -> dict[Published, list[Measured]]:
    """Every published row, with the groups of runs that are nearest to it, and what tells these apart from it."""
    beside: dict[Published, list[Measured]] = {row: [] for row in published_rows()}
    for group in groups:
        seeds = tuple(run.seed for run in group.runs)
        absent = summarise(dict.fromkeys(seeds, undefined("not measured in this run")))
        acc, forget = (group.metrics.get(key, absent) for key in (group.final_metric, "forgetting"))
        for row in nearest_rows(group):
            apart: list[Departure] = []
            for run in group.runs:
                settings, measure = _flat(run.config), facts(run)["measure"]
                optimizer = (run.manifest.get("model") or {}).get("optimizer", "not recorded")
                if row.dataset == "COCO" and measure != POOLED_BOX_AP:  # from before AP was pooled
                    apart.append(Departure("measure", POOLED_BOX_AP, measure))
                if optimizer != PUBLISHED_OPTIMIZER:
                    apart.append(Departure("model.optimizer", f"{PUBLISHED_OPTIMIZER} (adamw_bf16)", optimizer))
                apart += [*departures(row, settings, seeds), *untold(row, settings)]
            beside[row].append(Measured(group.label, acc, forget, tuple(dict.fromkeys(apart))))
    return beside


def nearest_rows(group: Group) -> list[Published]:
    """The rows of a group's stream, number of tasks and method from which least is varied.

    Of these the plainest: with the fewest settings of its own, and of the base model of the main results.
    """
    run = group.runs[0]
    stream, settings = run.config.get("stream") or {}, _flat(run.config)
    rows = [
        row
        for row in published_rows()
        if (row.tasks, row.run) == (len(run.matrix), group.method) and protocol(row).stream_name == stream.get("name")
    ]
    apart = {row: (len(_varied(row, settings)), len(row.settings), row.model != rows[0].model) for row in rows}
    return [row for row in rows if apart[row] == min(apart.values())]


def _varied(row: Published, settings: Mapping[str, str]) -> list[str]:
    """Settings that tables vary, in which a run is not as a row."""
    varied = ("method.", "stream.think", "model.path")
    return [one.name for one in departures(row, settings) if one.name.startswith(varied)]


def planned(names: Sequence[str]) -> list[Planned]:
    """What of the published tables the sweeps of these names would run; those that would run none are left out."""
    streams = {row.stream for row in published_rows()}
    found = []
    for name in names:
        plan = sweep_file(name)
        parts = [plan, *(plan.get("parts") or ())]
        if not streams & {str(stream) for part in parts for stream in part.get("streams") or ()}:
            continue
        by_labels: dict[tuple[str, ...], list[dict[str, str]]] = {}
        for cell in load_sweep(name, {}, orders=1):
            by_labels.setdefault((cell.stream_label, cell.method_label, cell.model_label), []).append(
                _flat(cell.to_dict())
            )
        held: dict[Published, dict[str, str]] = {}
        for row in published_rows():
            fitting = [one for one in by_labels.get((row.stream, row.run, row.model), ()) if not _varied(row, one)]
            held |= {row: fitting[0]} if fitting else {}
        apart = (one for row, cell in held.items() for one in (*departures(row, cell), *untold(row, cell)))
        found.append(Planned(name, tuple(held), tuple(dict.fromkeys(apart))))
    return found


def departures(row: Published, settings: Mapping[str, str], seeds: Sequence[int] = ()) -> tuple[Departure, ...]:
    """In which settings, by dotted name, a run is not as published, and in which class orders if any are given."""
    expected = _flat(protocol(row).to_dict())
    found = [
        Departure(name, expected[name], settings.get(name, "not recorded"))
        for name in expected
        if settings.get(name) != expected[name] and name not in FREE
    ]
    _, preset = SETTINGS[row.dataset, row.tasks]
    if seeds and preset is not None and tuple(seeds) != order_seeds(preset):
        found.append(Departure("seeds", *(", ".join(map(str, some)) for some in (order_seeds(preset), seeds))))
    return tuple(found)


def untold(row: Published, settings: Mapping[str, str]) -> list[Departure]:
    """In what no run of this suite is as published, or not known to be, whatever its settings tell."""
    told = settings.get
    rewarded = row.run.partition("+")[0] not in SUPERVISED
    unlisted, averaged = told("stream.shots_list", "None") == "None", told("method.anchor") == "average"
    thinks = told("stream.think") != "False"
    loss = "mean over tokens, clip 0.2 and 0.3, dual clip 3"  # EasyR1's defaults
    kinds = (
        (not rewarded, "batches", "full ones alone in the released code (96 of 100 images)", "all images"),
        (rewarded, "trainer", "EasyR1, rollouts by vLLM", "TRL, rollouts by the suite's engine or vLLM"),
        (rewarded and told("method.preset") != "released_code", "trainer.loss", loss, "GRPO's, clip 0.2"),
        (row.run in PENALTIES, "method.strength", "not stated", "this project's default"),
        (row.dataset in SERIES, "seeds.domains", "orders not stated", "orders by the seeds of the images"),
        (row.dataset == "COCO", "draw", "over all tasks at once", "of each task by itself"),
        (unlisted, "draw.list", "the released lists", "by seed 42; stream.shots_list takes a list"),
        (row.dataset in CLIPS, "stream.frames", "number not stated", f"at most {told('stream.max_frames')}"),
        (averaged, "method.momentum", "a decay factor of 0.1", f"m = {told('method.anchor_momentum')}"),
        (not thinks, "stream.words", "not stated without reasoning", "the prompt without what asks for it"),
    )
    return [Departure(name, published, here) for holds, name, published, here in kinds if holds]


@cache
def protocol(row: Published) -> RunConfig:
    """The published setting of a row, as far as settings can tell."""
    return build_config(row.stream, row.run, row.model, 1993, PUBLISHED_TESTS, parse_overrides(row.settings))


def _flat(config: Mapping[str, Any]) -> dict[str, str]:
    """Settings that are compared: names, places and what is tested beside the stream are not."""
    aside = ("run.", "seed", "stream.label", "method.label", "model.label", "evaluate.probe")
    return {name: value for name, value in flatten(config).items() if not name.startswith(aside)}


def published_parts(beside: Beside, plans: Sequence[Planned]) -> list[Part]:
    """Every published row with what was measured of it, the differences, and what the sweeps would run.

    The terminal shows the rows that something was measured of, or all if nothing was.
    """
    known = {row: some for row, some in beside.items() if some}
    title = (
        f"{SOURCE}, percent, three class orders; runs of its streams and methods: {len(known)} of {len(beside)} rows"
    )
    parts: list[Part] = [published_table(known or beside, title, ("terminal",))]
    parts.append(published_table(beside, title, ("markdown",)))
    parts += [Sentence(text, "note") for text in difference_sentences(beside)]
    columns = text_columns("sweep", "tables", "rows", "not as published in")
    rows = [
        cells(one.sweep, tables_of(one.rows), _named(one.rows), "; ".join(map(str, one.departures))) for one in plans
    ]
    return [*parts, Table("Published rows that the shipped sweeps run", columns, rows, places=("terminal", "markdown"))]


def published_table(beside: Beside, title: str, places: tuple[Medium, ...]) -> Table:
    """One row per published row and group of runs; a published row without runs has dashes."""
    columns = [Column("table"), Column("data", "text"), Column("tasks"), Column("method", "text")]
    columns += [Column("published accuracy, %", "summary", short="published acc")]
    columns += [Column("published forgetting", "summary", short="published F")]
    columns += [Column("measured accuracy, %", "summary", short="measured acc")]
    columns += [Column("measured forgetting", "summary", short="measured F"), Column("orders", short="n")]
    rows = []
    for row, measured in beside.items():
        named = cells(row.table, row.dataset, row.tasks, row.method)
        for mean, spread in ((row.acc, row.acc_std), (row.forget, row.forget_std)):
            named.append(number_cell(mean, 2, scale=100, spread=spread))
        for one in measured:
            kinds = ", ".join(dict.fromkeys(departure.kind for departure in one.departures))
            rows.append(cells(*named, summary_cell(one.acc), summary_cell(one.forget), len(one.acc.values), kinds))
        if not measured:
            rows.append(cells(*named, DASH, DASH, 0, DASH))
    return Table(title, [*columns, Column("not as published in", "text")], rows, "ledger", places=places)


def published_to_csv(beside: Beside) -> str:
    """One row per published row and group of runs, as fractions; a published row without runs has one with gaps."""
    rows: list[list[object]] = []
    for row, measured in beside.items():
        named = [row.source, row.table, row.dataset, row.tasks, row.method, row.stream]
        named += [row.acc, row.acc_std, row.forget, row.forget_std]
        for one in measured:
            figures = [one.acc.mean, one.acc.std, one.forget.mean, one.forget.std]
            told = "; ".join(map(str, one.departures))
            rows.append([*named, one.label, len(one.acc.values), *figures, told])
        rows += [] if measured else [[*named, *[None] * 7]]
    return csv_text(CSV, rows)


def tables_of(rows: Iterable[Published]) -> str:
    """Which tables some rows are, or are of, and of which they hold none."""
    held, whole = Counter(row.table for row in rows), Counter(row.table for row in published_rows())
    kinds = {
        "whole": [table for table in whole if held[table] == whole[table]],
        "in part": [table for table in whole if 0 < held[table] < whole[table]],
        "none of": [table for table in whole if not held[table]],
    }
    return "; ".join(f"{kind} {', '.join(map(str, some))}" for kind, some in kinds.items() if some)


def difference_sentences(beside: Beside) -> list[str]:
    """For all runs in one sentence each kind of difference, setting by setting."""
    found: dict[tuple[Departure, ...], list[str]] = {}
    for row, measured in beside.items():
        for one in measured:
            found.setdefault(one.departures, []).append(f"{row.dataset} {row.tasks} {one.label}")
    return [
        f"{', '.join(names)}: {why}: {'; '.join(str(one) for one in apart if WHY[one.kind] == why)}."
        for apart, names in found.items()
        for why in dict.fromkeys(WHY[one.kind] for one in apart)
    ]


def _named(rows: Iterable[Published]) -> str:
    """Data sets with the methods that they are run with."""
    methods: dict[str, list[str]] = {}
    for row in rows:
        methods.setdefault(f"{row.dataset} {row.tasks}", []).append(row.method)
    by_methods: dict[str, list[str]] = {}
    for name, some in methods.items():
        by_methods.setdefault(", ".join(some), []).append(name)
    return "; ".join(f"{', '.join(names)}: {some}" for some, names in by_methods.items())
