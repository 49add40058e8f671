"""What kind of forgetting: what old items are answered with, whose classes are chosen, forgetting taken apart."""

import math

from clrft.analysis.formatting import DASH
from clrft.analysis.tables import name_of
from clrft.analysis.taxonomy import SPLIT, GroupKinds, shown_outcomes
from clrft.analysis.taxonomy_figures import answers_figure, confusion_figure, forgetting_figure
from clrft.report.parts import Cell, Column, Part, Picture, Section, Sentence, Subject, Table, summary_cell
from eval.metrics import metric_of


def kinds_section(subject: Subject) -> Section:
    """Answers to the old tasks, confusion of tasks, and the parts of forgetting."""
    parts: list[Part] = []
    for stream in subject.streams:
        parts += subject.heading(stream)
        parts += _stream_parts(subject, stream)
    parts += [Sentence(sentence, "missing") for sentence in subject.kinds.without]
    return Section("kinds", "What kind of forgetting", tuple(parts))


def _stream_parts(subject: Subject, stream: str) -> list[Part]:
    groups = subject.kinds.of_stream(stream)
    if not groups:
        return [Sentence(f"{stream}: kinds are not known, as no run's answers could be read.", "missing")]
    parts: list[Part] = []
    answers = answers_figure(groups, stream)
    if answers is None:
        parts.append(Sentence(f"{stream}: no method was asked old tasks after a later one.", "missing"))
    else:
        title = f"{stream}: what items of old tasks are answered with, after each task"
        described = "Stacked areas over tasks, one panel per method, a colour and a hatch per kind of answer, to 100 %."
        parts.append(
            Picture(subject.key("answers", stream), title, described, answers, answers_table(subject, stream, groups))
        )
    parted = forgetting_figure(groups, stream)
    if parted is None:
        why = "neither the final class list was asked (evaluate.final_list) nor do the answers tell what was lost"
        parts.append(Sentence(f"{stream}: forgetting is not taken apart, as {why}.", "missing"))
    else:
        title = f"{stream}: forgetting taken apart, by cause and by what was lost"
        described = "Stacked bars per method: what the longer class list takes and what the weights lost; what is lost."
        parts.append(
            Picture(subject.key("parts", stream), title, described, parted, split_table(subject, stream, groups))
        )
    confused = confusion_figure(groups, stream)
    if confused is None:
        why = next((one.undivided for one in groups if one.undivided), "no answers")
        parts.append(Sentence(f"{stream}: tasks are not confused with each other here: {why}.", "missing"))
    else:
        title = f"{stream}: whose classes are answered after the last task"
        described = "A heatmap per method on one scale: task of the item downwards, task of the answer to the right."
        table = confusion_table(subject, stream, groups)
        parts.append(Picture(subject.key("confusion", stream), title, described, confused, table))
    return parts


def answers_table(subject: Subject, stream: str, groups: list[GroupKinds]) -> Table:
    """Share of every kind of answer to the old tasks after each task."""
    outcomes = shown_outcomes(groups)
    rows = [
        (Cell(name_of(one.group)), Cell(str(stage), float(stage)), *(summary_cell(shares[key]) for key in outcomes))
        for one in groups
        for stage, shares in one.old.items()
    ]
    columns = (Column("method", "text"), Column("after task"), *(Column(name, "summary") for name in outcomes.values()))
    title = f"{stream}: answers to items of old tasks, percent"
    return Table(subject.key("answers", stream), title, columns, tuple(rows), folded=True)


def split_table(subject: Subject, stream: str, groups: list[GroupKinds]) -> Table:
    """The parts of forgetting by their metrics."""
    rows = [(Cell(name_of(one.group)), *(summary_cell(one.metrics[key]) for key in SPLIT)) for one in groups]
    columns = [Column(metric_of(key).title, "summary", metric_of(key).definition) for key in SPLIT]
    title = f"{stream}: forgetting taken apart, percentage points"
    return Table(subject.key("parts", stream), title, (Column("method", "text"), *columns), tuple(rows), folded=True)


def confusion_table(subject: Subject, stream: str, groups: list[GroupKinds]) -> Table:
    """One row per method and task of the item: share of answers with a class of each task."""
    known = [(one, one.confusion) for one in groups if one.confusion is not None]
    rows = [
        (Cell(name_of(one.group)), Cell(str(task), float(task)), *(_share(float(share)) for share in shares))
        for one, table in known
        for task, shares in enumerate(table, start=1)
    ]
    size = len(groups[0].group.runs[0].matrix)
    names = (*(f"task {task}" for task in range(1, size + 1)), "outside of the list", "no answer")
    columns = (Column("method", "text"), Column("item of task"), *(Column(name) for name in names))
    title = f"{stream}: answers after the last task by task of the item and of the answer, percent"
    return Table(subject.key("confusion", stream), title, columns, tuple(rows), folded=True)


def _share(share: float) -> Cell:
    return Cell(DASH) if math.isnan(share) else Cell(f"{100 * share:.1f}", share)
