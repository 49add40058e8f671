"""The kinds of forgetting of a comparison's runs as tables: for the terminal (rich), Markdown and CSV.

Percent in the first two, fractions in CSV, to be computed with.
Deliberately absent: any number that ``clrft.analysis.taxonomy`` did not compute.
"""

import math
from collections.abc import Iterator, Sequence

from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.text import Text

from clrft.analysis.compare import Summary
from clrft.analysis.study import told_over
from clrft.analysis.tables import DASH, Rows, csv_text, markdown_table, name_of, raw, rich_table, show
from clrft.analysis.taxonomy import BY_CAUSE, SPLIT, GroupKinds, KindReport, shown_outcomes
from eval.judgement import Failure
from eval.metrics import METRICS
from eval.taxonomy import BESIDE, BESIDE_TITLES

SPLIT_TITLES = ("whole", "by the list", "by the weights", "superficial", "essential", "gained", "to newest, % of lost")
LOST = ("format", "outside", "named", "essential", "newest")
EXPLAINED = """\
Forgetting of the old tasks from right after learning them to the end (`forgetting_diag`), taken apart in two ways. By
cause: what the growing class list alone takes (`forgetting_vocabulary`), and what the later training takes
(`forgetting_weights`). By what was lost: items whose answer lost its form, or whose right class is still named beside
the answer (`forgetting_superficial`), all other lost items (`forgetting_essential`), less what was `gained`. Last: the
share of the lost items that were answered with a class of the newest task (`lost_to_newest`)."""


def kinds_to_terminal(report: KindReport) -> RenderableType:
    """Forgetting taken apart in two ways, and the answers to old tasks at the end: three tables per stream."""
    parts: list[RenderableType] = []
    for stream in report.streams():
        groups = report.of_stream(stream)
        rows, causes = _split_rows(groups), 2 + 1 + len(BY_CAUSE)  # in two, to fit a terminal
        title = f"{stream}: forgetting of old tasks by cause, {told_over(groups)}, points"
        parts.append(rich_table(title, ["method", "n", *SPLIT_TITLES[: causes - 2]], [row[:causes] for row in rows]))
        title = "By what was lost, points"
        parts.append(
            rich_table(title, ["method", *SPLIT_TITLES[causes - 2 :]], [row[:1] + row[causes:] for row in rows])
        )
        header, rows = _answer_table(groups)
        parts.append(rich_table("Answers to the old tasks after the last, %", header, rows))
        parts += [Text(sentence) for sentence in _reasons(groups)]
    parts += [Text(sentence) for sentence in report.sentences()]
    return RichGroup(*parts)


def kinds_to_markdown(report: KindReport) -> str:
    """The same, and after which task which answers were given, and to which task's classes the answers belong."""
    lines = ["# Kinds of forgetting", "", EXPLAINED, ""]
    for stream in report.streams():
        groups = report.of_stream(stream)
        lines += [f"## {stream}", "", f"{told_over(groups).capitalize()}.", ""]
        lines += ["### Forgetting taken apart, points", ""]
        lines += markdown_table(["method", "orders", *SPLIT_TITLES], _split_rows(groups))
        lines += ["### Answers to the old tasks after the last task, %", "", *markdown_table(*_answer_table(groups))]
        lines += ["### Answers to the old tasks after each task, mean, %", "", *markdown_table(*_stage_table(groups))]
        for one in groups:
            if one.confusion is not None:
                lines += [f"### {name_of(one.group)}: task of the answer by task of the item, at the end, %", ""]
                lines += markdown_table(*_confusion_table(one))
        lines += [*(f"- {sentence}" for sentence in _reasons(groups)), ""]
    lines += [f"- {sentence}" for sentence in report.sentences()]
    return "\n".join(lines).rstrip() + "\n"


def kinds_to_csv(report: KindReport) -> str:
    """One row per stream, method and figure: mean, standard deviation, and the value of every class order.

    ``figure`` is ``forgetting`` (``name``: a metric), ``answers`` (``name``: an outcome's share of the items of a task
    after a stage), ``old`` (likewise, mean over the old tasks), and in counts of every order: ``confusion`` (answers to
    a task's items at the end; ``name``: the task of the chosen class) and ``lost`` (items of a task; ``name``:
    format, outside, named and essential, the ways in which they were lost; newest, those answered with a class of the
    newest task; and gained).
    """
    seeds = sorted({run.seed for one in report.groups for run in one.group.runs})
    header = ["stream", "method", "label", "figure", "stage", "task", "name", "n", "mean", "std", "undefined", "mixed"]
    rows = [
        [one.group.stream, one.group.method, one.group.label, *where, str(len(summary.values))]
        + [raw(summary.mean), raw(summary.std), summary.reason or "", report.mixed(one.group.stream)]
        + [raw(summary.values[seed].value) if seed in summary.values else "" for seed in seeds]
        for one in report.groups
        for where, summary in _figures(one)
    ]
    rows += [
        [one.group.stream, one.group.method, one.group.label, *where, str(len(counts)), "", "", ""]
        + [report.mixed(one.group.stream)]
        + [str(counts[seed]) if seed in counts else "" for seed in seeds]
        for one in report.groups
        for where, counts in (*_confusion_counts(one), *_lost_counts(one))
    ]
    return csv_text([*header, *(f"order_{seed}" for seed in seeds)], rows)


def chosen_names(one: GroupKinds) -> list[str]:
    """Names of the columns of a confusion over tasks: the tasks, then outside of the list, then no answer."""
    tasks = len(one.group.runs[0].matrix)
    return [*(f"task {j}" for j in range(1, tasks + 1)), *BESIDE_TITLES]


def _split_rows(groups: Sequence[GroupKinds]) -> Rows:
    return [
        [name_of(one.group), str(len(one.group.runs)), *(show(one.metrics[key]) for key in SPLIT)] for one in groups
    ]


def _answer_table(groups: Sequence[GroupKinds]) -> tuple[list[str], Rows]:
    outcomes = shown_outcomes(groups)
    ends = [one.old.get(len(one.group.runs[0].matrix)) for one in groups]
    rows = [
        [name_of(one.group), *(show(end[outcome]) if end else DASH for outcome in outcomes)]
        for one, end in zip(groups, ends, strict=True)
    ]
    return ["method", *outcomes.values()], rows


def _stage_table(groups: Sequence[GroupKinds]) -> tuple[list[str], Rows]:
    outcomes = shown_outcomes(groups)
    rows = [
        [name_of(one.group), str(stage), *(_mean(by_outcome[outcome]) for outcome in outcomes)]
        for one in groups
        for stage, by_outcome in one.old.items()
    ]
    return ["method", "after task", *outcomes.values()], rows


def _confusion_table(one: GroupKinds) -> tuple[list[str], Rows]:
    assert one.confusion is not None
    rows = [
        [f"task {j}", *(DASH if math.isnan(share) else f"{100 * share:.1f}" for share in row)]
        for j, row in enumerate(one.confusion, start=1)
    ]
    return ["items of", *chosen_names(one)], rows


def _reasons(groups: Sequence[GroupKinds]) -> list[str]:
    """Sentences about what is undefined, once for all methods that share a reason."""
    why: dict[str, list[str]] = {}
    for one in groups:
        for key, summary in one.metrics.items():
            if summary.reason is not None:
                why.setdefault(f"{METRICS[key].title}: undefined ({summary.reason})", []).append(one.group.label)
        if one.undivided is not None:
            why.setdefault(f"task of the answer: undefined ({one.undivided})", []).append(one.group.label)
    return [f"{sentence}: {', '.join(labels)}." for sentence, labels in why.items()]


def _figures(one: GroupKinds) -> Iterator[tuple[list[str], Summary]]:
    for key, summary in one.metrics.items():
        yield ["forgetting", "", "", key], summary
    for (stage, task), by_outcome in one.cells.items():
        for outcome, summary in by_outcome.items():
            yield ["answers", str(stage), str(task), _name(outcome)], summary
    for stage, by_outcome in one.old.items():
        for outcome, summary in by_outcome.items():
            yield ["old", str(stage), "", _name(outcome)], summary


def _confusion_counts(one: GroupKinds) -> Iterator[tuple[list[str], dict[int, int]]]:
    tables = {seed: run.confusion for seed, run in one.runs.items() if run.confusion is not None}
    if not tables:
        return
    tasks = len(one.group.runs[0].matrix)
    names = [*map(str, range(1, tasks + 1)), *BESIDE]
    for j in range(tasks):
        for column, name in enumerate(names):
            counts = {seed: int(table[j, column]) for seed, table in tables.items()}
            yield ["confusion", str(tasks), str(j + 1), name], counts


def _lost_counts(one: GroupKinds) -> Iterator[tuple[list[str], dict[int, int]]]:
    tasks = len(one.group.runs[0].matrix)
    for j in range(1, tasks):
        changes = {seed: run.changes[j] for seed, run in one.runs.items() if j in run.changes}
        for name in (*LOST, "gained"):
            field = name if name == "gained" else f"lost_{name}"
            counts = {seed: int(getattr(change, field)) for seed, change in changes.items()}
            if counts:
                yield ["lost", str(tasks), str(j), name], counts


def _name(outcome: Failure) -> str:
    return "right" if outcome == "none" else outcome


def _mean(summary: Summary) -> str:
    return DASH if summary.mean is None else f"{100 * summary.mean:.1f}"
