"""General ability beside forgetting: what was measured outside of the stream, before and after."""

from collections.abc import Sequence

from clrft.analysis.compare import Group, summarise
from clrft.analysis.formatting import probe_words
from clrft.report.parts import Cell, Column, Part, Picture, Section, Sentence, Subject, Table, summary_cell
from clrft.report.plane import scatter_figure
from clrft.runs.read import RunRecord
from eval.metrics import Value, undefined

CHANGE = "general_delta/"


def ability_section(subject: Subject) -> Section:
    """Every probe before training and after the last task, with forgetting in the same row."""
    parts: list[Part] = []
    for stream in subject.streams:
        groups = subject.groups(stream)
        parts += subject.heading(stream)
        probes = [key.removeprefix(CHANGE) for key in subject.comparison.defined_metrics(stream) if CHANGE in key]
        if not probes:
            parts.append(
                Sentence(f"{stream}: no probe outside of the stream was measured (evaluate.probe).", "missing")
            )
        for probe in probes:
            parts += _probe(subject, stream, groups, probe)
    return Section("ability", "General ability beside forgetting", tuple(parts))


def _probe(subject: Subject, stream: str, groups: list[Group], probe: str) -> list[Part]:
    key = CHANGE + probe
    shown = [one for one in groups if one.metrics.get(key) is not None and "forgetting" in one.metrics]
    shown = [one for one in shown if one.metrics["forgetting"].mean is not None]
    table = ability_table(subject, stream, groups, probe)
    if not shown:
        return [table]
    title = f"{stream}: change on {probe_words(probe)} against forgetting"
    described = "A scatter chart: forgetting to the right, change on the probe upwards, one mark per method."
    up = f"change on {probe_words(probe)} (points)"
    figure = scatter_figure(shown, "forgetting", key, "forgetting (points)", up)
    note = "Below zero the model has lost ability that no task of the stream taught. The table below has the numbers."
    return [Picture(table.key, title, described, figure, None, note), table]


def ability_table(subject: Subject, stream: str, groups: Sequence[Group], probe: str) -> Table:
    """Probe before, after, its change, and forgetting."""
    rows = []
    for group in groups:
        before, after = (summarise({run.seed: _measured(run, probe, at) for run in group.runs}) for at in (0, -1))
        change = summary_cell(group.metrics.get(CHANGE + probe))
        lost = summary_cell(group.metrics.get("forgetting"))
        rows.append((Cell(group.label), summary_cell(before), summary_cell(after), change, lost))
    names = ("before training, %", "after the last task, %", "change, points", "forgetting, points")
    columns = (Column("method", "text"), *(Column(name, "summary") for name in names))
    title = f"{stream}: {probe_words(probe)}, a probe outside of the stream"
    return Table(subject.key(f"ability-{probe}", stream), title, columns, tuple(rows))


def _measured(run: RunRecord, probe: str, at: int) -> Value:
    """The probe's accuracy at the first (0) or last (-1) stage of a run."""
    stages = run.stages()
    found = run.task_metrics(stages[at]).get("probe", {}).get(probe) if stages else None
    return undefined("not measured") if found is None else Value(float(found))
