"""The rewards of a comparison's runs as tables: for the terminal (rich), Markdown and CSV.

Rewards are shown as they are, shares of reranked pairs in percent; CSV holds fractions, to be computed with.
Deliberately absent: any number that ``clrft.analysis.rewards`` did not compute.
"""

from collections.abc import Sequence

from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.text import Text

from clrft.analysis.compare import Summary
from clrft.analysis.rewards import BATCHES, REWARD, SHAPED, UPDATES, Figure, GroupRewards, RewardReport
from clrft.analysis.study import told_over
from clrft.analysis.tables import DASH, Rows, csv_text, markdown_table, raw, rich_table

EXPLAINED = (
    "Means over a task's updates: the unshaped components and their sum (reward), what each shaper added to it, and "
    "the share of the pairs inside a group whose order it changed."
)


def rewards_to_terminal(report: RewardReport) -> RenderableType:
    """One table per stream, a method's tasks below each other, its shapers below each other in a task's row."""
    parts: list[RenderableType] = []
    for stream in report.streams():
        groups = report.of_stream(stream)
        components = _components(groups)
        header = ["method", "n", "task", "updates", *components, "shaper", "added", "reranked"]
        rows = [row for one in groups for row in _terminal_rows(one, components)]
        title = f"{stream}: rewards by task, {told_over(groups, 'mean')}; reranked in %"
        parts.append(rich_table(title, header, rows))
    parts += [Text(sentence) for sentence in report.sentences()]
    return RichGroup(*parts)


def rewards_to_markdown(report: RewardReport) -> str:
    """What the rewards were made of, and what each shaper did, in two tables per stream."""
    return "# Rewards\n" + _body(report, report.sentences())


def rewards_section(report: RewardReport) -> str:
    """The same behind a comparison's Markdown; empty when no run has rewards."""
    return "\n## Rewards\n" + _body(report, report.without, "#") if report.groups else ""


def rewards_to_csv(report: RewardReport) -> str:
    """One row per stream, method, task and figure: mean, standard deviation, and the value of every class order.

    ``kind`` is that of ``clrft.analysis.rewards.Figure``, ``name`` the component or the shaper.
    """
    seeds = sorted({run.seed for one in report.groups for run in one.group.runs})
    header = ["stream", "method", "label", "task", "kind", "name", "n", "mean", "std", "undefined", "mixed"]
    rows = [
        [one.group.stream, one.group.method, one.group.label, str(task), figure.kind, figure.name]
        + [
            str(len(summary.values)),
            raw(summary.mean),
            raw(summary.std),
            summary.reason or "",
            report.mixed(one.group.stream),
        ]
        + [raw(summary.values[seed].value) if seed in summary.values else "" for seed in seeds]
        for one in report.groups
        for task, figures in one.tasks.items()
        for figure, summary in figures.items()
    ]
    return csv_text([*header, *(f"order_{seed}" for seed in seeds)], rows)


def task_name(one: GroupRewards, task: int) -> str:
    """A task's number; a joint run learns all at once."""
    return "all" if one.group.joint else str(task)


def _body(report: RewardReport, sentences: Sequence[str], deeper: str = "") -> str:
    lines = ["", EXPLAINED, ""] if report.groups else [""]
    for stream in report.streams():
        groups = report.of_stream(stream)
        components = _components(groups)
        lines += [f"##{deeper} {stream}", "", f"{told_over(groups, 'mean').capitalize()}.", ""]
        header = ["method", "orders", "task", "updates", "batches", *components, "reward", "shaped reward"]
        lines += markdown_table(header, [row for one in groups for row in _component_rows(one, components)])
        shaped = [row for one in groups for row in _shaper_rows(one)]
        if shaped:
            lines += markdown_table(["method", "task", "shaper", "added", "reranked pairs, %"], shaped)
    lines += [f"- {sentence}" for sentence in sentences]
    return "\n".join(lines).rstrip() + "\n"


def _terminal_rows(one: GroupRewards, components: Sequence[str]) -> Rows:
    rows = []
    for number, (task, figures) in enumerate(one.tasks.items()):
        head = ["", ""] if number else [one.group.label, str(len(one.group.runs))]
        shapers = one.shapers or ("",)
        added = [_signed(figures[Figure("added", name)]) if name else DASH for name in shapers]
        reranked = [_percent(figures[Figure("reranked", name)]) if name else DASH for name in shapers]
        rows.append(
            [*head, task_name(one, task), _count(figures[UPDATES])]
            + [_number(figures.get(Figure("component", name))) for name in components]
            + ["\n".join(shapers) or DASH, "\n".join(added), "\n".join(reranked)]
        )
    return rows


def _component_rows(one: GroupRewards, components: Sequence[str]) -> Rows:
    return [
        [one.group.label, str(len(one.group.runs)), task_name(one, task)]
        + [_count(figures[UPDATES]), _count(figures[BATCHES])]
        + [_number(figures.get(Figure("component", name))) for name in components]
        + [_number(figures[REWARD]), _number(figures[SHAPED])]
        for task, figures in one.tasks.items()
    ]


def _shaper_rows(one: GroupRewards) -> Rows:
    return [
        [
            *(one.group.label, task_name(one, task), name),
            *(_signed(figures[Figure("added", name)]), _percent(figures[Figure("reranked", name)])),
        ]
        for task, figures in one.tasks.items()
        for name in one.shapers
    ]


def _components(groups: Sequence[GroupRewards]) -> list[str]:
    return list(dict.fromkeys(name for one in groups for name in one.components))


def _number(summary: Summary | None) -> str:
    return DASH if summary is None or summary.mean is None else f"{summary.mean:.3f}"


def _signed(summary: Summary) -> str:
    return DASH if summary.mean is None else f"{summary.mean:+.3f}".replace("-", "−")


def _percent(summary: Summary) -> str:
    return DASH if summary.mean is None else f"{100 * summary.mean:.1f}"


def _count(summary: Summary) -> str:
    """A count that is mostly the same in every class order; otherwise the least and the most."""
    counts = sorted({round(value.value) for value in summary.values.values() if value.value is not None})
    return DASH if not counts else "–".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
