"""Why accuracies are what they are: a run's answers by kind after each task, and where most name no listed class.

Kinds are those of ``eval.taxonomy``, read from the predictions on disk (``clrft.runs.taxonomy``).
"""

from collections import Counter

from rich.table import Table
from rich.text import Text

from clrft.runs.read import RunRecord
from clrft.runs.taxonomy import RunKinds, run_kinds, task_classes
from eval.judgement import Failure
from eval.taxonomy import BESIDE, OUTCOME_TITLES, OUTCOMES
from task_streams.errors import UserError, brief, shown

EXAMPLES = 3  # of answers, in a warning
LISTED = 6  # names of classes in a warning
LETTERS = 40  # of an answer in a warning


def answers_told(record: RunRecord) -> tuple[Table | None, list[str]]:
    """A finished run's answers by kind as a table, and sentences about them; no table where none are on disk."""
    try:
        kinds = run_kinds(record.folder, record.matrix, task_classes(record.manifest, len(record.matrix)))
    except UserError as error:
        return None, [f"answers by kind are not recorded: {error.problems[0]}"]
    return answers_table(record, kinds), unlisted_warning(record, kinds)


def answers_table(record: RunRecord, kinds: RunKinds) -> Table:
    """Share of each kind in percent, a row for each stage, over all tasks that it had learned; the base's over all."""
    by_stage: dict[int, Counter[Failure]] = {}
    for (stage, task), counts in sorted(kinds.cells.items()):
        if task <= stage or stage == 0:
            by_stage.setdefault(stage, Counter()).update(counts)
    titles = dict(OUTCOME_TITLES)
    if kinds.undivided is not None:  # all tasks may have the same classes
        titles["same_task"] = "another class"
    came_up = [outcome for outcome in OUTCOMES if any(counts[outcome] for counts in by_stage.values())]
    table = Table(title="Answers by kind (%)")
    table.add_column("after task")
    for outcome in came_up:
        table.add_column(titles[outcome], justify="right")
    for stage, counts in by_stage.items():
        name = f"{stage} {record.matrix.tasks[stage - 1]}" if stage else "(base)"
        table.add_row(Text(name), *(f"{100 * counts[outcome] / counts.total():.1f}" for outcome in came_up))
    return table


def unlisted_warning(record: RunRecord, kinds: RunKinds) -> list[str]:
    """A warning where most answers about a learned task name no listed class, with examples from the newest case."""
    learned = {cell: counts for cell, counts in sorted(kinds.cells.items()) if 1 <= cell[1] <= cell[0]}
    low = [cell for cell, counts in learned.items() if 2 * sum(counts[kind] for kind in BESIDE) > sum(counts.values())]
    if not low:
        return []
    stage, task = low[-1]
    classes = task_classes(record.manifest, len(record.matrix))
    listed = sorted({name for part in classes[:stage] for name in part})
    counts = learned[stage, task]
    answered = {kind: _examples(record, (stage, task), kind) for kind in BESIDE if counts[kind]}
    what = "name no listed class" if listed else "cannot be read"
    total = sum(counts.values())
    text = (
        f"warning: most answers {what} in {len(low)} of {len(learned)} cells of the matrix. "
        f"Of those about task {task} ({record.matrix.tasks[task - 1]}) after task {stage}"
    )
    if "outside_list" in answered:
        text += f", {counts['outside_list']} of {total} are none of the list: {answered['outside_list']}"
    if "format" in answered:
        text += f", {counts['format']} of {total} have no <answer>…</answer> that can be read: {answered['format']}"
    text += f". Listed: {shown([brief(name) for name in listed], LISTED)}." if listed else "."
    if "outside_list" in answered and "class_names" in record.config.get("stream", {}):
        text += " Where the model knows these classes by other names, stream.class_names renames them."
    return [text]


def _examples(record: RunRecord, cell: tuple[int, int], kind: Failure) -> str:
    """The commonest answers of a kind in a cell, short and without control characters, each with its number."""
    stage, task = cell
    told = Counter(
        one.completion if one.answer is None else one.answer
        for one in record.predictions(stage)
        if one.task == task and one.failure == kind
    )
    return ", ".join(f"{_short(text)} ({count})" for text, count in told.most_common(EXAMPLES))


def _short(text: str) -> str:
    return repr(text if len(text) <= LETTERS else f"{text[:LETTERS]}…")
