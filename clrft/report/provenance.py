"""What the figures rest on: settings, runs with their versions and hardware, folders left out, definitions."""

from collections.abc import Iterator

from clrft.analysis.table import DASH, Sentence, Table, cells, text_columns
from clrft.report.parts import Part, Subject, missing
from clrft.runs.differences import flatten, unlike
from eval.metrics import METRICS
from task_streams.prompt_style import SUITE

FACTS = ("code", "versions", "hardware", "model")
NOTATION = (
    "R[i,j]: accuracy on task j after training on task i, of T tasks. A_i: accuracy after task i over all test items "
    "so far. n_j: test items of task j. b_j: the base's accuracy on task j. V_j: accuracy on task j right after "
    "learning it, asked under the final class list. J_j: accuracy on task j after joint training. Forgetting of a task "
    "that never rises again is its fall from the best it ever had."
)
_FEW = 3  # runs that are named one by one
_NO_SETTING = ("run.output", "run.sweep", "run.mlflow", "seed", "stream.label", "method.label", "model.label")


def settings_section(subject: Subject) -> Iterator[Part]:
    """Two tables per stream: the settings that differ between methods, and those that do not."""
    comparison = subject.comparison
    for stream, groups in comparison.streams.items():
        yield from comparison.heading(stream)
        flat = [
            {name: value for name, value in flatten(group.runs[0].config).items() if name not in _NO_SETTING}
            for group in groups
        ]
        names = list(dict.fromkeys(name for one in flat for name in one))
        differing = [name for name in names if len({one.get(name) for one in flat}) > 1]
        if differing:
            rows = [cells(name, *(one.get(name, DASH) for one in flat)) for name in differing]
            columns = text_columns("setting", *(group.label for group in groups))
            title = f"{stream}: settings that differ; a dash: the method has no such setting"
            yield Table(title, columns, rows, comparison.key("settings", stream))
        else:
            yield Sentence(f"{stream}: the methods differ in no setting.")
        if also := unlike([run for group in groups for run in group.runs]):
            yield missing(f"{stream}: runs of one class order differ in {', '.join(also)}.")
        same = [cells(name, flat[0][name]) for name in names if name not in differing]
        title, columns = f"{stream}: settings that all share", text_columns("setting", "value")
        yield Table(title, columns, same, comparison.key("shared-settings", stream), folded=True)


def origin_section(subject: Subject) -> Iterator[Part]:
    """Facts of all runs; one that differs between runs has a row for each of its values."""
    runs = [run for group in subject.comparison.groups for run in group.runs]
    facts = [flatten({name: run.manifest.get(name) or {} for name in FACTS}) for run in runs]
    rows = []
    for name in dict.fromkeys(name for one in facts for name in one):
        values = [one.get(name, "not recorded") for one in facts]
        for value in dict.fromkeys(values):
            having = [run.folder.name for run, own in zip(runs, values, strict=True) if own == value]
            more = f" and {len(having) - _FEW} more" if len(having) > _FEW else ""
            who = "all" if len(having) == len(runs) else ", ".join(having[:_FEW]) + more
            rows.append(cells(name, value, who))
    runs_rows = []
    for run in runs:
        # commit, device, and the last task's test fingerprint: enough to see who had the same data
        told = [(run.manifest.get(part) or {}).get(name) for part, name in (("code", "commit"), ("model", "device"))]
        told.append(next(reversed((run.manifest.get("data") or {}).values()), None))
        texts = ["not recorded" if fact is None else str(fact)[:12] for fact in told]
        style = run.manifest.get("prompt_style", SUITE.name)
        runs_rows.append(cells(run.folder.name, run.stream, run.method, str(run.seed), style, *texts))
    columns = text_columns("folder", "stream", "method", "class order", "prompt", "commit", "device", "data")
    yield Table("Every run", columns, runs_rows, "runs")
    columns = text_columns("fact", "value", "runs")
    yield Table("Versions, code, hardware and model", columns, rows, "versions", folded=True)
    if not rows:
        yield missing("The manifests record no versions, code or hardware.")


def left_out_section(subject: Subject) -> Iterator[Part]:
    """Folders that are not in any figure here."""
    rows = [cells(str(one.folder), one.fault, one.reason) for one in subject.left_out]
    if rows:
        yield Table("Left out, never averaged in", text_columns("folder", "fault", "reason"), rows, "left-out")
    else:
        yield Sentence("None: every folder that was given is compared.")


def definitions_section(subject: Subject) -> Iterator[Part]:
    """All metrics, with the reason where one is undefined here."""
    yield Sentence(NOTATION)
    groups, rows = subject.comparison.groups, []
    for key, metric in METRICS.items():
        own = {name: one for group in groups for name, one in group.metrics.items() if name.partition("/")[0] == key}
        measured = any(one.mean is not None for one in own.values())
        reason = next((one.reason for one in own.values() if one.reason), "not asked for")
        better = "higher" if metric.higher_is_better else "lower"
        rows.append(cells(key, metric.title, metric.definition, better, "" if measured else str(reason)))
    columns = text_columns("key", "title", "formula", "better", "undefined here because")
    yield Table("Metrics", columns, rows, "definitions")
