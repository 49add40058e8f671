"""Where the runs come from: versions, code, hardware, data, model, class orders, and the folders left out."""

from collections.abc import Mapping
from typing import Any

from clrft.report.parts import Column, Part, Section, Sentence, Subject, Table, text_cells
from clrft.runs.differences import flatten
from clrft.runs.read import RunRecord
from task_streams.prompt_style import SUITE

FACTS = ("code", "versions", "hardware", "model")
_FEW = 3  # runs that are named one by one


def origin_section(subject: Subject) -> Section:
    """Facts of all runs; one that differs between runs has a row for each of its values."""
    runs = [run for group in subject.comparison.groups for run in group.runs]
    facts = [flatten({name: run.manifest.get(name) or {} for name in FACTS}) for run in runs]
    rows = []
    for name in dict.fromkeys(name for one in facts for name in one):
        values = [one.get(name, "not recorded") for one in facts]
        for value in dict.fromkeys(values):
            of = [run for run, own in zip(runs, values, strict=True) if own == value]
            rows.append(text_cells([name, value, _named(of, runs)]))
    columns = (Column("fact", "text"), Column("value", "text"), Column("runs", "text"))
    parts: list[Part] = [
        Table("runs", "Every run", *_runs(runs)),
        Table("versions", "Versions, code, hardware and model", columns, tuple(rows), folded=True),
    ]
    if not rows:
        parts.append(Sentence("The manifests record no versions, code or hardware.", "missing"))
    return Section("origin", "Runs, versions and hardware", tuple(parts))


def left_out_section(subject: Subject) -> Section:
    """Folders that are not in any figure here."""
    if not subject.left_out:
        return Section("left-out", "Folders left out", (Sentence("None: every folder that was given is compared."),))
    rows = tuple(text_cells([str(one.folder), one.fault, one.reason]) for one in subject.left_out)
    columns = (Column("folder", "text"), Column("fault", "text"), Column("reason", "text"))
    return Section("left-out", "Folders left out", (Table("left-out", "Left out, never averaged in", columns, rows),))


def _runs(runs: list[RunRecord]) -> tuple[tuple[Column, ...], tuple[Any, ...]]:
    names = ("folder", "stream", "method", "class order", "prompt", "commit", "device", "data")
    rows = [
        [
            *(run.folder.name, run.stream, run.method, str(run.seed), run.manifest.get("prompt_style", SUITE.name)),
            *(_short(run.manifest, "code", "commit"), _short(run.manifest, "model", "device"), _data(run.manifest)),
        ]
        for run in runs
    ]
    return tuple(Column(name, "text") for name in names), tuple(text_cells(row) for row in rows)


def _short(manifest: Mapping[str, Any], part: str, name: str) -> str:
    found = (manifest.get(part) or {}).get(name)
    return "not recorded" if found is None else str(found)[:12]


def _data(manifest: Mapping[str, Any]) -> str:
    """Beginning of the last task's test fingerprint, enough to see that two runs had the same data."""
    prints = [str(value) for value in (manifest.get("data") or {}).values()]
    return prints[-1][:12] if prints else "not recorded"


def _named(some: list[RunRecord], runs: list[RunRecord]) -> str:
    if len(some) == len(runs):
        return "all"
    names = [run.folder.name for run in some]
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")
