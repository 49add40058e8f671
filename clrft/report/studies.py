"""What the studies of the runs found: the taxonomy of forgetting, drift and rewards, costs, published results."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from clrft.analysis import costs, drift, study_figures, taxonomy
from clrft.analysis import published_results as published
from clrft.analysis.figures import training_figure
from clrft.analysis.rewards import rewards_table
from clrft.analysis.table import Sentence, Table
from clrft.report.parts import Part, Picture, Subject, missing
from clrft.utils.files import config_root
from clrft.utils.plain import read_yaml, section_of

DRIFTS = {  # title and note of the pictures
    "drift_forgetting": (
        "forgetting against drift, one mark per run",
        "Dashed: a fitted quadratic. Intervals of rank correlations are by bootstrap over orders.",
    ),
    "drift_spread": (
        "spread of drift inside groups of rollouts of equal reward",
        "Standard deviation of drift inside a group, mean over groups and class orders.",
    ),
}


def _drawn(figure: Figure | None, table: Table, title: str, described: str, otherwise: str) -> Part:
    """A picture with the numbers behind it, or why there is none."""
    return missing(otherwise) if figure is None else Picture(table.key, title, described, figure, table)


def taxonomy_section(subject: Subject) -> Iterator[Part]:
    """What old items are answered with, whose classes are chosen, forgetting taken apart."""
    report = subject.taxonomy
    for stream in subject.comparison.streams:
        groups = report.streams.get(stream)
        yield from subject.comparison.heading(stream)
        if not groups:
            yield missing(f"{stream}: kinds are not known, as no run's answers could be read.")
            continue
        yield _drawn(
            study_figures.answers_figure(groups, stream),
            taxonomy.answers_table(report, stream),
            f"{stream}: what items of old tasks are answered with, after each task",
            "Stacked areas over tasks, one panel per method, a colour and a hatch per kind of answer, to 100 %.",
            f"{stream}: no method was asked old tasks after a later one.",
        )
        yield _drawn(
            study_figures.forgetting_figure(groups, stream),
            taxonomy.split_table(report, stream),
            f"{stream}: forgetting taken apart, by cause and by what was lost",
            "Stacked bars per method: what the longer class list takes and what the weights lost; what is lost.",
            f"{stream}: forgetting is not taken apart, as neither the final class list was asked (evaluate.final_list) "
            "nor do the answers tell what was lost.",
        )
        why = next((one.undivided for one in groups if one.undivided), "no answers")
        yield _drawn(
            study_figures.confusion_figure(groups, stream),
            taxonomy.confusion_table(report, stream),
            f"{stream}: whose classes are answered after the last task",
            "A heatmap per method on one scale: task of the item downwards, task of the answer to the right.",
            f"{stream}: tasks are not confused with each other here: {why}.",
        )
    yield from map(missing, report.without)


def why_section(subject: Subject) -> Iterator[Part]:
    """How far policies moved, what they did while they learned, and what rewards were made of."""
    comparison, study = subject.comparison, drift.drift_study(subject.comparison)
    for stream in comparison.streams:
        yield from comparison.heading(stream)
        yield from _drift_parts(study, stream)
        figure = training_figure(comparison.streams[stream], stream)
        if figure is None:
            yield missing(f"{stream}: no run recorded reward, drift or KL while it trained.")
        else:
            title = f"{stream}: reward, drift and KL over training"
            described = "Line charts over training, task after task, one line per method. "
            described += "Its numbers are in steps.jsonl."
            note = "Running means; a vertical line is a task boundary. "
            note += "Every update's numbers are in the runs' steps.jsonl."
            yield Picture(comparison.key("training", stream), title, described, figure, None, note)
        if groups := subject.rewards.streams.get(stream):  # else the sentences at the end say why
            title = f"{stream}: what rewards were made of, task by task"
            described = "Stacked bars by task, one panel per method: mean of each component and of what shapers added."
            table = rewards_table(subject.rewards, stream)
            yield Picture(table.key, title, described, study_figures.rewards_figure(groups, stream), table)
    told = study.without if study.streams else ()  # of streams without any it is said above
    yield from map(missing, (*told, *subject.rewards.without))


def _drift_parts(study: drift.DriftStudy, stream: str) -> Iterator[Part]:
    """How far the policies of one stream moved, and whether that goes with what they forgot."""
    found = study.streams.get(stream)
    if found is None:
        why = "no run of it was compared with the policies before it (evaluate.drift_prompts)"
        yield missing(f"{stream}: drift of what was learned is not known, as {why}.")
        return
    tables = {"drift_forgetting": drift.relation_table(study, found), "drift_spread": drift.spread_table(study, found)}
    for name, figure in study_figures.drift_figures(found).items():
        key, (title, note) = study.comparison.key(name.replace("_", "-"), stream), DRIFTS[name]
        described = f"Charts of {title}, a colour and a marker per method. The table behind has the numbers."
        yield Picture(key, f"{stream}: {title}", described, figure, tables[name], note)
    yield drift.point_table(study, found)


def costs_section(subject: Subject) -> Iterator[Part]:
    """Quality against cost as a picture, and the figures: counted, by the clock, and memory."""
    report = costs.cost_report(subject.comparison)
    if report.streams:
        yield Sentence(costs.EXPLAINED)
    for stream in subject.comparison.streams:
        groups = report.streams.get(stream)
        yield from subject.comparison.heading(stream)
        if not groups:
            yield missing(f"{stream}: no run counted what it cost.")
            continue
        table, figure = costs.cost_table(report, stream), study_figures.costs_figure(groups, stream)
        if figure is not None:
            title = f"{stream}: quality against what the training cost"
            described = "Scatter charts: last accuracy and forgetting upwards, each cost to the right, "
            described += "a mark per method."
            note = "Bars are ± one standard deviation. The table below has the numbers."
            yield Picture(table.key, title, described, figure, None, note)
        yield table
    yield from map(missing, report.without if report.streams else ())


def published_section(subject: Subject) -> Iterator[Part]:
    """The published rows that something was measured of, and in what that is not as published."""
    rows = published.published_rows()
    files = [config_root() / "streams" / f"{preset}.yaml" for preset in {row.stream for row in rows}]
    streams = {read_yaml(path)["stream"]["name"] for path in files}
    all_groups = subject.comparison.groups
    groups = [one for one in all_groups if section_of(one.runs[0].config, "stream").get("name") in streams]
    beside = published.published_beside(groups) if groups else {}  # a row's settings take a while to look up
    known = {row: measured for row, measured in beside.items() if measured}
    source = published.SOURCE
    if not known:
        why = f"no run here has the stream, number of tasks and method of one of the {len(rows)} published rows"
        yield missing(f"None ({source}): {why}.")
        return
    yield published.published_table(known, f"{source}, and what was measured here", ("report",))
    yield from (Sentence(text, "note") for text in published.difference_sentences(known))
