"""The answer first: which method forgets less, by how much, how sure that is; then the table of means.

The answer is a sentence that is computed. It says "undecided" wherever the interval of the difference holds zero.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from clrft.analysis.compare import FLOOR, Comparison, Group
from clrft.analysis.comparison_tables import means_table, orders_table
from clrft.analysis.paired_tests import ALPHA, PairedTests, paired_tests
from clrft.analysis.pairs import differences_of
from clrft.analysis.render import markdown_table
from clrft.analysis.table import Sentence
from clrft.report.parts import Part, Section, Subject

FORGETTING, LEARNING = "forgetting", "learning_acc"


def headline_section(subject: Subject) -> Section:
    """One answer per stream, and its methods' means."""
    comparison = subject.comparison
    parts: list[Part] = []
    for stream in comparison.streams():
        answer, *more = answers(comparison.of_stream(stream))
        parts += [*comparison.heading(stream), Sentence(answer, "answer"), *(Sentence(text) for text in more)]
        parts += [means_table(comparison, stream), orders_table(comparison, stream, comparison.defined_metrics(stream))]
    parts += [Sentence(note, "note") for note in comparison.notes]
    return Section("answer", "Which method forgets less?", tuple(parts))


def headline_note(comparison: Comparison) -> str:
    """The answers and the tables of means as Markdown, for places that show it."""
    lines: list[str] = []
    for stream in comparison.streams():
        table = means_table(comparison, stream)
        lines += [f"**{stream}**: {' '.join(answers(comparison.of_stream(stream)))}", ""]
        lines += [f"{table.title}:", "", *markdown_table(table)]
    return "\n".join(lines)


def answers(groups: Sequence[Group]) -> list[str]:
    """The answer for one stream, then what a reader needs to judge it; at least one sentence."""
    learners = [one for one in groups if one.method != FLOOR and not one.joint and one.mean(FORGETTING) is not None]
    learners.sort(key=_forgetting)
    if not learners:
        reasons = [one.metrics[FORGETTING].reason for one in groups if not one.joint and FORGETTING in one.metrics]
        reason = next((reason for reason in reasons if reason), None)
        why = f"no method has a forgetting ({reason})" if reason else "no method here learned task by task"
        return [f"No answer: {why}."]
    best, *others = learners
    if not others:
        lone = f"{best.label} forgets {points(_forgetting(best))}"
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
    both = f"{number(_forgetting(best))} against {number(_forgetting(rival))} points"
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
    first, second = best.mean(LEARNING), rival.mean(LEARNING)
    if first is None or second is None:
        return "How well each task was learned is not known, so less forgetting may be less learning."
    return (
        f"Learning accuracy: {best.label} {number(first)}, {rival.label} {number(second)} %. "
        "Who learns less has less to forget."
    )


def _floor(groups: Sequence[Group]) -> list[str]:
    found = [points(_forgetting(one)) for one in groups if one.method == FLOOR and one.mean(FORGETTING) is not None]
    return [f"The frozen base loses {lost} without learning: its prompts list ever more classes." for lost in found[:1]]


def points(value: float) -> str:
    """A difference of fractions in percentage points."""
    return f"{number(value)} points"


def number(value: float, sign: bool = False) -> str:
    """A fraction in percent with one digit."""
    return f"{100 * value + 0.0:{'+' if sign else ''}.1f}".replace("-", "−")


def _forgetting(group: Group) -> float:
    mean = group.mean(FORGETTING)
    if mean is None:
        raise ValueError(f"{group.label} has no mean forgetting")
    return mean
