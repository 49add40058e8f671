"""Drift: how far the policies moved, and whether that goes with what they forgot."""

from clrft.analysis.drift_figures import drift_figures
from clrft.analysis.drift_study import MEASURES, OUTCOMES, DriftStudy, StreamStudy
from clrft.analysis.drift_tables import SPREAD_TITLES
from clrft.report.parts import Cell, Column, Part, Picture, Sentence, Subject, Table, number_cell

TITLES = {
    "drift_forgetting": "forgetting against drift, one mark per run",
    "drift_spread": "spread of drift inside groups of rollouts of equal reward",
}
NOTES = {
    "drift_forgetting": "Dashed: a fitted quadratic. Intervals of rank correlations are by bootstrap over orders.",
    "drift_spread": "Standard deviation of drift inside a group, mean over groups and class orders.",
}


def drift_parts(subject: Subject, stream: str, study: DriftStudy) -> list[Part]:
    """Pictures and tables of one stream's drift; a sentence where nothing was measured."""
    found = next((one for one in study.streams if one.stream == stream), None)
    if found is None:
        why = "no run of it was compared with the policies before it (evaluate.drift_prompts)"
        return [Sentence(f"{stream}: drift of what was learned is not known, as {why}.", "missing")]
    tables = {"drift_forgetting": relation_table(subject, found), "drift_spread": spread_table(subject, found)}
    parts: list[Part] = []
    for name, figure in drift_figures(found).items():
        key = subject.key(name.replace("_", "-"), stream)
        title = f"{stream}: {TITLES[name]}"
        described = f"Charts of {TITLES[name]}, a colour and a marker per method. The table behind has the numbers."
        parts.append(Picture(key, title, described, figure, tables[name], NOTES[name]))
    parts.append(point_table(subject, found))
    return parts


def relation_table(subject: Subject, study: StreamStudy) -> Table:
    """Rank correlations of every measure with every outcome."""
    rows = [
        (
            *(Cell(one.outcome), Cell(one.measure), number_cell(float(one.correlation.n), 0)),
            *(number_cell(value, 2, sign=True) for value in (one.correlation.rho, one.correlation.low)),
            number_cell(one.correlation.high, 2, sign=True),
            number_cell(None if one.curve is None else one.curve.r2, 2),
            Cell(one.correlation.reason or ""),
        )
        for one in study.relations
    ]
    columns = (
        *(Column("outcome", "text"), Column("measure", "text"), Column("runs"), Column("Spearman's rho")),
        *(Column("low"), Column("high"), Column("R² of the quadratic"), Column("undefined because", "text")),
    )
    title = f"{study.stream}: rank correlation with drift over runs, 95 % interval"
    return Table(subject.key("drift-relations", study.stream), title, columns, tuple(rows), folded=True)


def spread_table(subject: Subject, study: StreamStudy) -> Table:
    """Spread of drift in groups by method and task."""
    rows = [
        (
            *(Cell(spread.group.label), Cell(SPREAD_TITLES[spread.name]), number_cell(float(task), 0)),
            number_cell(mean, 4),
            *(number_cell(value, 2, sign=True) for value in (spread.trend.rho, spread.trend.low, spread.trend.high)),
        )
        for spread in study.spreads
        for task, mean in spread.means().items()
    ]
    columns = (
        *(Column("method", "text"), Column("groups", "text"), Column("after task"), Column("spread, nats per token")),
        *(Column("rho with the task"), Column("low"), Column("high")),
    )
    title = f"{study.stream}: spread of drift by task, and its rank correlation with the number of the task"
    return Table(subject.key("drift-spread", study.stream), title, columns, tuple(rows), folded=True)


def point_table(subject: Subject, study: StreamStudy) -> Table:
    """Every run's measures and outcomes."""
    rows = [
        (
            *(Cell(point.label), number_cell(float(point.seed), 0)),
            *(number_cell(point.measures.get(name), 4) for name in MEASURES),
            *(number_cell(point.outcomes.get(name), scale=100) for name in OUTCOMES),
        )
        for point in study.points
    ]
    columns = (
        *(Column("method", "text"), Column("class order")),
        *(Column(name.replace("_", " ")) for name in MEASURES),
        *(Column(f"{name.replace('_', ' ')}, points") for name in OUTCOMES),
    )
    title = f"{study.stream}: KL and drift of every run, nats per token, means over its tasks"
    return Table(subject.key("drift-runs", study.stream), title, columns, tuple(rows), folded=True)
