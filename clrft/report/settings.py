"""In what settings the methods differ, and what they share."""

from clrft.analysis.formatting import DASH
from clrft.report.parts import Cell, Column, Part, Section, Sentence, Subject, Table, text_cells
from clrft.runs.differences import flatten, unlike

_NO_SETTING = ("run.output", "run.sweep", "run.mlflow", "seed", "stream.label", "method.label", "model.label")


def settings_section(subject: Subject) -> Section:
    """Two tables per stream: the settings that differ between methods, and those that do not."""
    parts: list[Part] = []
    for stream in subject.streams:
        groups = subject.groups(stream)
        parts += subject.heading(stream)
        flat = [
            {name: value for name, value in flatten(group.runs[0].config).items() if name not in _NO_SETTING}
            for group in groups
        ]
        names = list(dict.fromkeys(name for one in flat for name in one))
        differing = [name for name in names if len({one.get(name) for one in flat}) > 1]
        rows = [(Cell(name), *text_cells([one.get(name, DASH) for one in flat])) for name in differing]
        if rows:
            columns = (Column("setting", "text"), *(Column(group.label, "text") for group in groups))
            title = f"{stream}: settings that differ; a dash: the method has no such setting"
            parts.append(Table(subject.key("settings", stream), title, columns, tuple(rows)))
        else:
            parts.append(Sentence(f"{stream}: the methods differ in no setting."))
        also = unlike([run for group in groups for run in group.runs])
        if also:
            parts.append(Sentence(f"{stream}: runs of one class order differ in {', '.join(also)}.", "missing"))
        same = [text_cells([name, flat[0][name]]) for name in names if name not in differing]
        columns = (Column("setting", "text"), Column("value", "text"))
        key = subject.key("shared-settings", stream)
        parts.append(Table(key, f"{stream}: settings that all share", columns, tuple(same), folded=True))
    return Section("settings", "Settings that differ", tuple(parts))
