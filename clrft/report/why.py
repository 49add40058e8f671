"""Why: how far policies moved, what they did while they learned, and what rewards were made of."""

from clrft.analysis.drift_study import drift_study
from clrft.analysis.figures import training_figure
from clrft.analysis.formatting import DASH
from clrft.analysis.reward_figures import rewards_figure
from clrft.analysis.reward_tables import task_name
from clrft.analysis.rewards import Figure, GroupRewards
from clrft.report.drift import drift_parts
from clrft.report.parts import Cell, Column, Part, Picture, Section, Sentence, Subject, Table


def why_section(subject: Subject) -> Section:
    """Drift, training curves and rewards."""
    study = drift_study(subject.comparison)
    parts: list[Part] = []
    for stream in subject.streams:
        parts += subject.heading(stream)
        parts += drift_parts(subject, stream, study)
        parts += _training(subject, stream)
        parts += _rewards(subject, stream)
    told = study.without if study.streams else ()  # of streams without any it is said above
    parts += [Sentence(sentence, "missing") for sentence in (*told, *subject.rewards.without)]
    return Section("why", "Why: drift and rewards", tuple(parts))


def _training(subject: Subject, stream: str) -> list[Part]:
    figure = training_figure(subject.groups(stream), stream)
    if figure is None:
        return [Sentence(f"{stream}: no run recorded reward, drift or KL while it trained.", "missing")]
    title = f"{stream}: reward, drift and KL over training"
    described = "Line charts over training, task after task, one line per method. Its numbers are in steps.jsonl."
    note = "Running means; a vertical line is a task boundary. Every update's numbers are in the runs' steps.jsonl."
    return [Picture(subject.key("training", stream), title, described, figure, None, note)]


def _rewards(subject: Subject, stream: str) -> list[Part]:
    groups = subject.rewards.of_stream(stream)
    if not groups:
        return []  # the sentences at the end say why
    title = f"{stream}: what rewards were made of, task by task"
    described = "Stacked bars by task, one panel per method: mean of each component and of what shapers added."
    figure = rewards_figure(groups, stream)
    return [Picture(subject.key("rewards", stream), title, described, figure, rewards_table(subject, stream, groups))]


def rewards_table(subject: Subject, stream: str, groups: list[GroupRewards]) -> Table:
    """One row per method, task and figure of its rewards."""
    rows = [
        (Cell(one.group.label), Cell(task_name(one, task)), Cell(_name(figure)), _number(figures[figure].mean))
        for one in groups
        for task, figures in one.tasks.items()
        for figure in figures
    ]
    columns = (Column("method", "text"), Column("task", "text"), Column("figure", "text"), Column("mean"))
    return Table(subject.key("rewards", stream), f"{stream}: rewards", columns, tuple(rows), folded=True)


def _number(mean: float | None) -> Cell:
    return Cell(DASH) if mean is None else Cell(f"{mean:.3f}".replace("-", "−"), mean)


def _name(figure: Figure) -> str:
    return f"{figure.kind} {figure.name}".strip()
