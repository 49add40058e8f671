"""The answer first: which method forgets less, by how much, how sure that is; then the table of means.

The answer is a sentence that is computed. It says "undecided" wherever the interval of the difference holds zero.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from clrft.analysis.compare import FLOOR, Group
from clrft.analysis.formatting import DASH, named, titled
from clrft.analysis.paired_tests import ALPHA, PairedTests, paired_tests
from clrft.analysis.pairs import differences_of
from clrft.analysis.tables import headline, markdown_table, name_of
from clrft.report.parts import Cell, Column, Part, Section, Sentence, Subject, Table, summary_cell
from eval.metrics import metric_of

FORGETTING, LEARNING = "forgetting", "learning_acc"


def headline_section(subject: Subject) -> Section:
    """One answer per stream, and its methods' means."""
    parts: list[Part] = []
    for stream in subject.streams:
        groups = subject.groups(stream)
        parts += subject.heading(stream)
        answer, *more = answers(groups)
        parts.append(Sentence(answer, "answer"))
        parts += [Sentence(text) for text in more]
        parts.append(means_table(subject, stream))
        parts.append(every_metric_table(subject, stream))
    parts += [Sentence(note, "note") for note in subject.comparison.notes]
    return Section("answer", "Which method forgets less?", tuple(parts))


def headline_note(subject: Subject) -> str:
    """The answers and the tables of means as Markdown, for places that show it."""
    lines: list[str] = []
    for stream in subject.streams:
        table = means_table(subject, stream)
        rows = [[cell.text for cell in row] for row in table.rows]
        lines += [f"**{stream}**: {' '.join(answers(subject.groups(stream)))}", ""]
        lines += [f"{table.title}:", "", *markdown_table([column.name for column in table.columns], rows)]
    return "\n".join(lines)


def answers(groups: Sequence[Group]) -> list[str]:
    """The answer for one stream, then what a reader needs to judge it; at least one sentence."""
    learners = sorted((one for one in groups if _is_learner(one)), key=_mean)
    if not learners:
        return [f"No answer: {_why_none(groups)}."]
    best, *others = learners
    if not others:
        lone = f"{best.label} forgets {points(_mean(best))}"
        return [f"{lone}; no other method that learns task by task is here to compare it with.", *_floor(groups)]
    rival, *behind = others
    found = differences(best, rival)
    sentences = [_verdict(best, rival, found)]
    sentences += [_sureness(found)] if found is not None and len(found.values) > 1 else []
    sentences += [_against(best, behind)] if behind else []
    sentences.append(_learned(best, rival))
    if behind:
        sentences.append(
            f"The two were picked among {len(learners)} methods by the same figures that compare them, "
            "so that the interval is somewhat too narrow."
        )
    return [*sentences, *_floor(groups)]


@dataclass(frozen=True, slots=True)
class Difference:
    """How much less the best method forgets than another, by class order, with the tests of it."""

    values: tuple[float, ...]
    tests: PairedTests

    @property
    def mean(self) -> float:
        """Mean difference in forgetting, a fraction; negative: the best forgets less."""
        return statistics.fmean(self.values)

    @property
    def clear(self) -> bool:
        """Whether Student's 95 % interval is clear of zero."""
        return self.tests.t_high is not None and self.tests.t_high < 0


def differences(best: Group, other: Group) -> Difference | None:
    """Differences in forgetting over the class orders of both; None where they share none."""
    values = tuple(differences_of(best, other, FORGETTING).values())
    return Difference(values, paired_tests([values])[0]) if values else None


def _verdict(best: Group, rival: Group, found: Difference | None) -> str:
    both = f"{number(_mean(best))} against {number(_mean(rival))} points"
    if found is None:
        return f"Undecided: {best.label} forgets less than {rival.label}, {both}, but in no common class order."
    count = len(found.values)
    orders = f"{count} class order{'s' * (count != 1)}"
    less = f"{points(-found.mean)} less than {rival.label}, the next"
    if found.tests.t_low is None or found.tests.t_high is None:
        return f"Undecided: in {orders} {best.label} forgets {less} ({both}). One order decides nothing."
    interval = (
        f"95 % interval of the difference {number(found.tests.t_low, True)} to {number(found.tests.t_high, True)}"
    )
    told = f"{both}; {interval}, {orders}"
    if not found.clear:
        return f"Undecided: {best.label} forgets {less}, but that may be chance ({told})."
    if found.tests.smallest_p > ALPHA:
        return f"Probably {best.label}, but from few class orders: it forgets {less} ({told})."
    return f"{best.label} forgets least: {less} ({told})."


def _sureness(found: Difference) -> str:
    """What the exact test says, and how many class orders a claim would need."""
    tests = found.tests
    if tests.p is None:
        exact = "Too many class orders for the exact test."
    else:
        exact = f"Exact sign-flip test: p = {tests.p:.2g}"
        least = f"; {len(found.values)} class orders can give no less than {tests.smallest_p:.2g}"
        exact += (least if tests.smallest_p > ALPHA else "") + "."
    needed = tests.for_power
    if needed.orders is None:
        return f"{exact} How many class orders would be needed cannot be told ({needed.reason})."
    return f"{exact} A difference of this size and spread takes {needed.orders} class orders to be found 4 times in 5."


def _against(best: Group, others: Sequence[Group]) -> str:
    """The other methods, split by whether the difference to the best is clear."""
    found = [(other.label, differences(best, other)) for other in others]
    clear = [f"{label} ({number(one.mean, True)})" for label, one in found if one is not None and one.clear]
    unclear = [label for label, one in found if one is None or not one.clear]
    said = [f"less than {', '.join(clear)}, each with an interval clear of zero"] if clear else []
    said += [f"not clearly less than {', '.join(unclear)}"] if unclear else []
    return f"{best.label} forgets {'; '.join(said)}."


def _learned(best: Group, rival: Group) -> str:
    first, second = (one.metrics.get(LEARNING) for one in (best, rival))
    if first is None or second is None or first.mean is None or second.mean is None:
        return "How well each task was learned is not known, so less forgetting may be less learning."
    return (
        f"Learning accuracy: {best.label} {number(first.mean)}, {rival.label} {number(second.mean)} %. "
        "Who learns less has less to forget."
    )


def _floor(groups: Sequence[Group]) -> list[str]:
    found = [one for one in groups if one.method == FLOOR and _has(one)]
    if not found:
        return []
    return [f"The frozen base loses {points(_mean(found[0]))} without learning: its prompts list ever more classes."]


def means_table(subject: Subject, stream: str) -> Table:
    """Mean ± standard deviation of the metrics one reads first."""
    groups, keys = subject.groups(stream), headline(subject.comparison, stream)
    columns = [Column("method", "text"), Column("orders")]
    columns += [Column(titled(key), "summary", metric_of(key).definition) for key in keys]
    rows = [
        (
            Cell(name_of(group)),
            Cell(str(len(group.runs)), float(len(group.runs))),
            *(summary_cell(group.metrics.get(key), key) for key in keys),
        )
        for group in groups
    ]
    spread = "mean ± sample standard deviation over class orders" if _orders(groups) > 1 else "one class order"
    key = subject.key("headline", stream)
    return Table(key, f"{stream}: {spread}, percent", tuple(columns), tuple(rows))


def every_metric_table(subject: Subject, stream: str) -> Table:
    """Every metric of every method in every class order."""
    groups, keys = subject.groups(stream), subject.comparison.defined_metrics(stream)
    seeds = sorted({run.seed for group in groups for run in group.runs})
    columns = [Column("metric", "text"), Column("method", "text"), Column("mean", "summary")]
    rows = []
    for key in keys:
        for group in groups:
            cell = summary_cell(group.metrics.get(key), key)
            shown = dict(cell.orders)
            values = group.metrics[key].values if key in group.metrics else {}
            each = [Cell(shown.get(str(seed), DASH), values[seed].value if seed in values else None) for seed in seeds]
            rows.append((Cell(named(key)), Cell(group.label), Cell(cell.text, cell.value, cell.spread), *each))
    orders = [Column(f"order {seed}") for seed in seeds]
    title = f"{stream}: every metric in every class order, percent"
    return Table(subject.key("metrics", stream), title, (*columns, *orders), tuple(rows), folded=True)


def points(value: float) -> str:
    """A difference of fractions in percentage points."""
    return f"{number(value)} points"


def number(value: float, sign: bool = False) -> str:
    """A fraction in percent with one digit."""
    return f"{100 * value + 0.0:{'+' if sign else ''}.1f}".replace("-", "−")


def _is_learner(group: Group) -> bool:
    return group.method != FLOOR and not group.joint and _has(group)


def _has(group: Group) -> bool:
    return FORGETTING in group.metrics and group.metrics[FORGETTING].mean is not None


def _mean(group: Group) -> float:
    mean = group.metrics[FORGETTING].mean
    if mean is None:
        raise ValueError(f"{group.label} has no mean forgetting")
    return mean


def _why_none(groups: Sequence[Group]) -> str:
    reasons = [one.metrics[FORGETTING].reason for one in groups if not one.joint and FORGETTING in one.metrics]
    found = next((reason for reason in reasons if reason), None)
    return f"no method has a forgetting ({found})" if found else "no method here learned task by task"


def _orders(groups: Sequence[Group]) -> int:
    return max(len(group.runs) for group in groups)
