"""Answers before and after they were forgotten: a few test items, one card each, with their images.

Chosen are items that the most methods answered rightly right after learning their task and wrongly at the end, a few
of every task, all from one class order. They show what forgetting looks like, and say nothing about how much there is.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clrft.analysis.compare import FLOOR, Group
from clrft.analysis.formatting import DASH
from clrft.report.parts import Block, Column, Part, Section, Sentence, Subject, Table, text_cells
from clrft.report.sample_images import images_of
from clrft.runs.read import RunRecord
from eval.evaluate import Prediction
from task_streams.errors import UserError

MOST_ITEMS, MOST_METHODS, LONGEST = 12, 6, 220  # per stream; characters of a completion

Key = tuple[int, str]  # task, key of the item
MEANING = {
    "none": "right",
    "format": "no answer in the form asked for",
    "outside_list": "a name that the prompt does not list",
    "same_task": "another class of the same task",
    "newest_task": "a class of the newest task",
    "other_task": "a class of another old task",
    "wrong": "wrong",
}


@dataclass(frozen=True, slots=True)
class Item:
    """A test item and what each method made of it right after its task and at the end."""

    task: int
    key: str
    label: str
    answers: Mapping[str, tuple[Prediction, Prediction]]


def samples_section(subject: Subject) -> Section:
    """Cards of forgotten items."""
    parts: list[Part] = []
    for stream in subject.streams:
        parts += subject.heading(stream)
        parts += _stream_parts(subject, stream)
    return Section("samples", "What was forgotten", tuple(parts))


def _stream_parts(subject: Subject, stream: str) -> list[Part]:
    runs = chosen_runs(subject.groups(stream))
    if not runs:
        return [Sentence(f"{stream}: no method learned two tasks or more one by one.", "missing")]
    seed = next(iter(runs.values())).seed
    try:
        items = forgotten_items(runs)
    except UserError as error:
        return [Sentence(f"{stream}: not shown: {' '.join(error.problems)}", "missing")]
    if not items:
        return [Sentence(f"{stream}: in class order {seed} no item was answered rightly first and wrongly at the end.")]
    found = images_of(next(iter(runs.values())), [(item.task, item.key) for item in items])
    last = len(next(iter(runs.values())).matrix)
    intro = (
        f"{stream}, class order {seed}: items that the most methods answered rightly right after learning their task "
        f"and wrongly after task {last}, at most {MOST_ITEMS}. They were chosen because they were forgotten."
    )
    parts: list[Part] = [Sentence(intro)]
    parts += [Sentence(found.problem, "missing")] if found.problem else []
    cards = [
        {
            "item": item,
            "image": found.images.get((item.task, item.key)),
            "rows": [(label, _shown(first), _shown(end)) for label, (first, end) in item.answers.items()],
        }
        for item in items
    ]
    parts.append(Block("samples", {"cards": cards, "last": last}))
    parts.append(samples_table(subject, stream, items))
    return parts


def chosen_runs(groups: Sequence[Group]) -> dict[str, RunRecord]:
    """One run per method that learned task by task, all of the class order that most of them have, by label."""
    learners = [one for one in groups if one.method != FLOOR and not one.joint and len(one.runs[0].matrix) > 1]
    if not learners:
        return {}
    counts = Counter(run.seed for group in learners for run in group.runs)
    seed = min(counts, key=lambda seed: (-counts[seed], seed))
    runs = {group.label: run for group in learners for run in group.runs if run.seed == seed}
    return dict(list(runs.items())[:MOST_METHODS])


def forgotten_items(runs: Mapping[str, RunRecord]) -> list[Item]:
    """Items answered rightly first and wrongly at the end, by task, a few of each.

    Raises:
        UserError: a file of predictions is missing or damaged.
    """
    before: dict[Key, dict[str, Prediction]] = {}
    after: dict[Key, dict[str, Prediction]] = {}
    for label, run in runs.items():
        last = len(run.matrix)
        for stage in range(1, last):
            _collect(before, label, run, stage, only=stage)
        _collect(after, label, run, last)
    lost = Counter(
        place
        for place, by_label in before.items()
        for label, first in by_label.items()
        if first.correct and (end := after.get(place, {}).get(label)) is not None and not end.correct
    )
    tasks = sorted({task for task, _ in lost})
    each = -(-MOST_ITEMS // len(tasks)) if tasks else 0
    chosen: list[Key] = []
    for task in tasks:
        own = sorted((place for place in lost if place[0] == task), key=lambda place: (-lost[place], _draw(place)))
        chosen += own[:each]
    return [_item(place, before[place], after.get(place, {})) for place in chosen[:MOST_ITEMS]]


def samples_table(subject: Subject, stream: str, items: Sequence[Item]) -> Table:
    """The same answers as a table."""
    rows = [
        text_cells([str(item.task), item.key, item.label, label, *_texts(first), *_texts(end)])
        for item in items
        for label, (first, end) in item.answers.items()
    ]
    names = ("task", "item", "right answer", "method", "after its task", "judged", "at the end", "judged at the end")
    columns = tuple(Column(name, "text") for name in names)
    title = f"{stream}: the answers shown above, in full"
    return Table(subject.key("samples", stream), title, columns, tuple(rows), folded=True)


def _collect(
    found: dict[Key, dict[str, Prediction]], label: str, run: RunRecord, stage: int, only: int | None = None
) -> None:
    for prediction in run.predictions(stage):
        if only is None or prediction.task == only:
            found.setdefault((prediction.task, prediction.key), {})[label] = prediction


def _item(place: Key, before: Mapping[str, Prediction], after: Mapping[str, Prediction]) -> Item:
    both = {label: (first, after[label]) for label, first in before.items() if label in after}
    return Item(*place, next(iter(before.values())).label, both)


def _draw(place: Key) -> str:
    """An order of items that has nothing to do with their names."""
    return hashlib.sha256(place[1].encode()).hexdigest()


def _texts(prediction: Prediction) -> tuple[str, str]:
    return prediction.completion, MEANING[prediction.failure]


def _shown(prediction: Prediction) -> dict[str, str | bool]:
    text = prediction.completion
    return {
        "answer": DASH if prediction.answer is None else prediction.answer[:LONGEST],
        "completion": text if len(text) <= LONGEST else text[:LONGEST] + " …",
        "correct": prediction.correct,
        "meaning": MEANING[prediction.failure],
    }
