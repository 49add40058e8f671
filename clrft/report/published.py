"""Published figures beside measured ones, where a run has the stream, task count and method of a published row."""

from clrft.analysis.compare import Group
from clrft.analysis.published_results import SOURCE, Measured, Published, ledger, published_rows
from clrft.analysis.published_tables import sentences
from clrft.report.parts import Cell, Column, Part, Section, Sentence, Subject, Table, number_cell, summary_cell
from clrft.utils.files import config_root
from clrft.utils.plain import read_yaml, section_of


def ledger_section(subject: Subject) -> Section:
    """The rows that something was measured of, and in what that is not as published."""
    published = published_streams()
    groups = [group for group in subject.comparison.groups if _stream(group) in published]
    entries = ledger(groups) if groups else []  # a published row's settings take a while to look up
    known = [entry for entry in entries if entry.measured]
    title = "Published figures beside measured ones"
    if not known:
        count = len(published_rows())
        why = f"no run here has the stream, number of tasks and method of one of the {count} published rows"
        return Section("ledger", title, (Sentence(f"None ({SOURCE}): {why}.", "missing"),))
    rows = tuple(_row(entry.published, beside) for entry in known for beside in entry.measured)
    columns = (
        *(Column("table"), Column("data", "text"), Column("tasks"), Column("method", "text")),
        Column("published accuracy, %", "summary"),
        *(Column("published forgetting", "summary"), Column("measured accuracy, %", "summary")),
        *(Column("measured forgetting", "summary"), Column("orders"), Column("not as published in", "text")),
    )
    parts: list[Part] = [Table("ledger", f"{SOURCE}, and what was measured here", columns, rows)]
    parts += [Sentence(text, "note") for text in sentences(known)]
    return Section("ledger", title, tuple(parts))


def published_streams() -> set[str]:
    """Names of the streams that published rows are of."""
    files = [config_root() / "streams" / f"{preset}.yaml" for preset in {row.stream for row in published_rows()}]
    return {str(read_yaml(path)["stream"]["name"]) for path in files}


def _stream(group: Group) -> str:
    return str(section_of(group.runs[0].config, "stream").get("name"))


def _row(one: Published, beside: Measured) -> tuple[Cell, ...]:
    apart = dict.fromkeys(departure.name.partition(".")[0] for departure in beside.departures)
    return (
        number_cell(float(one.table), 0),
        *(Cell(one.dataset), number_cell(float(one.tasks), 0), Cell(one.method)),
        *(_published(one.acc, one.acc_std), _published(one.forget, one.forget_std)),
        *(summary_cell(beside.acc), summary_cell(beside.forget), number_cell(float(len(beside.seeds)), 0)),
        Cell(", ".join(apart)),
    )


def _published(mean: float | None, spread: float | None) -> Cell:
    shown = number_cell(mean, 2, 100)
    return Cell(shown.text + ("" if spread is None else f" ± {100 * spread:.2f}"), shown.value, spread)
