"""Run a policy over the test items of one task and keep every prediction.

Images are decoded a few batches ahead, so memory does not grow with the test set; among those, questions of about one
length share a batch, which is as long as its longest.
Deliberately absent: how a policy generates (``methods``), and where predictions are written (``clrft``).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from operator import itemgetter
from typing import Any, Protocol

from eval.judgement import FAILURES, Failure
from eval.score import failure_kind, score
from task_streams.errors import UserError
from task_streams.prompt import Fit, Request, answer_text, request
from task_streams.types import Clip, Task

THREADS = 2  # decode and resize ahead of the model
WINDOW = 4  # batches among which items are sorted by length
PIXELS_A_LETTER = 200  # as many pixels cost as much as a letter: 28 x 28 make a token, and so do four letters or so


class Generate(Protocol):
    """A policy as the evaluator sees it."""

    def __call__(self, requests: Sequence[Request]) -> list[str]:
        """One completion per request, in their order, without the prompt and without special tokens."""
        ...


class Spread(Protocol):
    """Several processes that answer the batches of one evaluation, each its own; all get all answers."""

    def mine(self, batch: int) -> bool:
        """Whether this process answers the batch of that number, from 0; every batch is one process's."""
        ...

    def everyones(self, answered: Mapping[int, str]) -> dict[int, str]:
        """Completions by place of the item, those of all processes."""
        ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """One test item, answered once: a row of ``predictions.jsonl``."""

    stage: int  # task (from 1) after which was evaluated; 0 for the base model before any training
    task: int  # task (from 1) that the item tests; one of several for an image of boxes
    key: str  # stable name of the item
    label: str  # what is right, as text: the class, the first accepted answer, or the listed boxes as JSON
    completion: str  # what the policy wrote
    answer: str | None  # text of the answer; None when none could be parsed
    correct: bool  # the answer is right as a whole
    failure: Failure  # why it is wrong, ``none`` when it is right

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Prediction":
        """The prediction of a row.

        Raises:
            UserError: a field is missing, unknown, or of the wrong kind.
        """
        names = {field.name for field in fields(cls)}
        if set(row) != names:
            raise UserError(f"damaged prediction: fields {sorted(row)}, expected {sorted(names)}.")
        if row["failure"] not in FAILURES or not isinstance(row["correct"], bool):
            raise UserError(
                f"damaged prediction {row['key']!r}: correct {row['correct']!r}, failure {row['failure']!r}; "
                f"expected true or false and one of {', '.join(FAILURES)}."
            )
        return cls(**row)


def evaluate(
    generate: Generate,
    task: Task,
    seen: Sequence[str],
    *,
    stage: int,
    task_of: Mapping[str, int],
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
    fit: Fit | None = None,
    spread: Spread | None = None,
) -> list[Prediction]:
    """Predictions for all test items of a task, in their order.

    Args:
        generate: the policy.
        task: the task whose test items are asked.
        seen: classes that the prompt lists, in its order.
        stage: task (from 1) after which is evaluated.
        task_of: index of the task that teaches each class.
        batch_size: most requests per call of ``generate``.
        on_batch: called after each batch with the number of items in it.
        fit: brings an image to the size in which the model sees it; called ahead, while the model computes.
        spread: other processes that answer some of the batches; None: all are answered here.

    Raises:
        UserError: the task has no test items.
        ValueError: ``generate`` returned another number of completions than it got requests.
    """
    if not task.test:
        raise UserError(f"task {task.index} ({task.name}) has no test items; an accuracy needs at least one.")
    answered = completions_by_place(generate, _prepared(task, seen, batch_size, fit), on_batch, spread)
    predictions = []
    for place, example in enumerate(task.test):
        judged = score(answered[place], example.target, seen, task.style)
        prediction = Prediction(
            stage=stage,
            task=task.index,
            key=example.key,
            label=answer_text(example.target, seen),
            completion=answered[place],
            answer=judged.answer,
            correct=judged.correct,
            failure=failure_kind(judged, example.target, task_of, stage),
        )
        predictions.append(prediction)
    return predictions


def completions_by_place(
    generate: Generate,
    batches: Iterable[tuple[Sequence[int], Iterable[Request]]],
    on_batch: Callable[[int], None] | None,
    spread: Spread | None,
) -> dict[int, str]:
    """Completions of batches by place of the item; what each batch asks is looked at only where it is answered."""
    answered: dict[int, str] = {}
    for number, (places, requests) in enumerate(batches):
        if spread is None or spread.mine(number):
            answered |= zip(places, generate(list(requests)), strict=True)
        if on_batch is not None:
            on_batch(len(places))
    return answered if spread is None else spread.everyones(answered)


def _prepared(task: Task, seen: Sequence[str], size: int, fit: Fit | None) -> Iterator[tuple[list[int], list[Request]]]:
    """Batches as places of test items and their requests; threads prepare the next few while the caller uses these."""
    if size < 1:
        raise ValueError(f"batch_size {size}: expected at least 1")
    items = task.test

    def prepare(place: int) -> tuple[float, int, Request]:
        """A request behind the place of its item, and about how long it is, in letters, its media included."""
        asked = request(items[place], seen, task.style)
        asked = asked.fitted(fit) if fit else asked
        letters = sum(len(part.get("text", "")) for turn in asked.messages for part in turn["content"])
        frames = [frame for item in asked.media for frame in (item.frames if isinstance(item, Clip) else (item,))]
        return letters + sum(frame.width * frame.height for frame in frames) / PIXELS_A_LETTER, place, asked

    size = math.ceil(len(items) / math.ceil(len(items) / size))  # as many batches, none of them nearly empty
    step = WINDOW * size
    windows = [range(start, min(start + step, len(items))) for start in range(0, len(items), step)]
    with ThreadPoolExecutor(THREADS) as workers:
        waiting = workers.map(prepare, windows[0])
        for following in [*windows[1:], range(0)]:
            ready = list(waiting)
            waiting = workers.map(prepare, following)
            ready.sort(key=itemgetter(0))
            for start in range(0, len(ready), size):
                batch = ready[start : start + size]
                yield [place for _, place, _ in batch], [asked for *_, asked in batch]
