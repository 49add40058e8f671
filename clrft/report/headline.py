"""The answer first: which method forgets less, by how much, how sure that is; then the table of means.

The answer is a sentence that is computed. It says "undecided" wherever the interval of the difference holds zero.
"""

from collections.abc import Iterator, Sequence

from clrft.analysis.compare import FLOOR, Comparison, Group
from clrft.analysis.comparison_tables import means_table, orders_table
from clrft.analysis.paired_tests import ALPHA
from clrft.analysis.pairs import Paired, paired
from clrft.analysis.render import markdown_table
from clrft.analysis.table import Sentence, percent
from clrft.report.parts import Part, Subject

FORGETTING, LEARNING = "forgetting", "learning_acc"


def headline_section(subject: Subject) -> Iterator[Part]:
    """One answer per stream, and its methods' means."""
    comparison = subject.comparison
    for stream, groups in comparison.streams.items():
        answer, *more = answers(groups)
        yield from (*comparison.heading(stream), Sentence(answer, "answer"), *map(Sentence, more))
        yield means_table(comparison, stream)
        yield orders_table(comparison, stream, comparison.defined_metrics(stream))
    yield from (Sentence(note, "note") for note in comparison.notes)


def headline_note(comparison: Comparison) -> str:
    """The answers and the tables of means as Markdown, for places that show it."""
    lines: list[str] = []
    for stream, groups in comparison.streams.items():
        table = means_table(comparison, stream)
        lines += [f"**{stream}**: {' '.join(answers(groups))}", ""]
        lines += [f"{table.title}:", "", *markdown_table(table)]
    return "\n".join(lines)


def answers(groups: Sequence[Group]) -> list[str]:
    """The answer for one stream, then what a reader needs to judge it; at least one sentence."""
    means = {one.label: mean for one in groups if (mean := one.mean(FORGETTING)) is not None}
    learners = [one for one in groups if one.method != FLOOR and not one.joint and one.label in means]
    learners.sort(key=lambda one: means[one.label])
    if not learners:
        reasons = [one.metrics[FORGETTING].reason for one in groups if not one.joint and FORGETTING in one.metrics]
        reason = next((reason for reason in reasons if reason), None)
        why = f"no method has a forgetting ({reason})" if reason else "no method here learned task by task"
        return [f"No answer: {why}."]
    best, *others = learners
    floor = [
        f"The frozen base loses {percent(means[one.label])} points without learning: "
        "its prompts list ever more classes."
        for one in groups
        if one.method == FLOOR and one.label in means
    ][:1]
    if not others:
        lone = f"{best.label} forgets {percent(means[best.label])} points"
        return [f"{lone}; no other method that learns task by task is here to compare it with.", *floor]
    rival, *behind = others
    found = {pair.second: pair for pair in paired([(best, other) for other in others], [FORGETTING])}
    near = found.get(rival.label)
    sentences = [_verdict(best, rival, near)]
    sentences += [_sureness(near)] if near is not None and near.orders > 1 and not near.same else []
    if behind:
        ends = {label: pair.tests.t_high for label, pair in found.items()}  # of Student's 95 % interval
        clear = [one for one in behind if (end := ends.get(one.label)) is not None and end < 0]
        less = ", ".join(f"{one.label} ({percent(found[one.label].mean, sign=True)})" for one in clear)
        unclear = ", ".join(one.label for one in behind if one not in clear)
        said = [f"less than {less}, each with an interval clear of zero"] if less else []
        said += [f"not clearly less than {unclear}"] if unclear else []
        sentences.append(f"{best.label} forgets {'; '.join(said)}.")
    first, second = best.mean(LEARNING), rival.mean(LEARNING)
    if first is None or second is None:
        sentences.append("How well each task was learned is not known, so less forgetting may be less learning.")
    else:
        learned = f"{best.label} {percent(first)}, {rival.label} {percent(second)} %"
        sentences.append(f"Learning accuracy: {learned}. Who learns less has less to forget.")
    if behind:
        sentences.append(
            f"The two were picked among {len(learners)} methods by the same figures that compare them, "
            "so that the interval is somewhat too narrow."
        )
    return [*sentences, *floor]


def _verdict(best: Group, rival: Group, found: Paired | None) -> str:
    both = f"{percent(best.mean(FORGETTING))} against {percent(rival.mean(FORGETTING))} points"
    if found is None:
        return f"Undecided: {best.label} forgets less than {rival.label}, {both}, but in no common class order."
    orders = f"{found.orders} class order{'s' * (found.orders != 1)}"
    if found.same:
        return f"No answer: {best.label} and {rival.label} gave the same answers in every order ({orders})."
    less = f"{percent(-found.mean)} points less than {rival.label}, the next"
    if found.tests.t_low is None or found.tests.t_high is None:
        return f"Undecided: in {orders} {best.label} forgets {less} ({both}). One order decides nothing."
    low, high = (percent(end, sign=True) for end in (found.tests.t_low, found.tests.t_high))
    told = f"{both}; 95 % interval of the difference {low} to {high}, {orders}"
    if found.tests.t_high >= 0:
        return f"Undecided: {best.label} forgets {less}, but that may be chance ({told})."
    if found.tests.smallest_p > ALPHA:
        return f"Probably {best.label}, but from few class orders: it forgets {less} ({told})."
    return f"{best.label} forgets least: {less} ({told})."


def _sureness(found: Paired) -> str:
    """What the exact test says, and how many class orders a claim would need."""
    tests = found.tests
    if tests.p is None:
        exact = "Too many class orders for the exact test."
    else:
        exact = f"Exact sign-flip test: p = {tests.p:.2g}"
        least = f"; {found.orders} class orders can give no less than {tests.smallest_p:.2g}"
        exact += (least if tests.smallest_p > ALPHA else "") + "."
    needed = tests.for_power
    if isinstance(needed, str):
        return f"{exact} How many class orders would be needed cannot be told ({needed})."
    return f"{exact} A difference of this size and spread takes {needed} class orders to be found 4 times in 5."
