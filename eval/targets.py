"""Right answers held against the scorer: each is written as supervised methods learn it, read, and scored.

What does not score full could never be answered right: a name or an answer with a tag of the reply in it, or with what
a model's tokenizer does not give back. Any loader's data come through here, so no loader has rules of its own for it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from eval.parse import TAG
from eval.score import score
from task_streams.errors import brief, shown
from task_streams.prompt import THOUGHTS, answer_text, target_text, visible
from task_streams.prompt_style import PromptStyle
from task_streams.types import Question, Target, TaskStream

NAMED = 5  # answers that a problem names

Read = Callable[[Sequence[str]], Sequence[str]]  # texts as an evaluation reads them when a model writes them


@dataclass(frozen=True, slots=True)
class RightAnswer:
    """A right answer in full, as a completion.

    Attributes:
        text: the completion.
        target: what it answers; of a question's accepted answers this one alone.
        labels: categories that the prompt of a box target lists; else none, for its class is enough to judge it.
        key: the first item that it is right for.
    """

    text: str
    target: Target
    labels: tuple[str, ...]
    key: str
    style: PromptStyle


def right_answers(stream: TaskStream, thought: str = THOUGHTS[0]) -> list[RightAnswer]:
    """Every distinct right answer of a stream: class, accepted answer of a question, boxes that a prompt asks for.

    ``thought`` is the wording of the thought, as in ``target_text``.
    """
    found: dict[tuple[Target, PromptStyle], RightAnswer] = {}
    for task in stream.tasks:
        for items, labels in ((task.train, task.trained), (task.test, task.seen)):
            for item in items:
                for target in _asked(item.target, labels):
                    if (target, task.style) not in found:
                        listed = labels if isinstance(target, tuple) else ()
                        text = target_text(target, thought, task.style, listed)
                        found[target, task.style] = RightAnswer(text, target, listed, item.key, task.style)
    return list(found.values())


def answer_problems(answers: Sequence[RightAnswer], read: Read = list) -> list[str]:
    """A sentence about right answers that do not score full, none where all do.

    ``read`` is the way through a model's tokenizer; without it texts are read as they are written.
    """
    wrong = []
    for answer, text in zip(answers, read([answer.text for answer in answers]), strict=True):
        judged = score(text, answer.target, answer.labels, answer.style)
        if not judged.correct or any(value != 1 for value in judged.components.values()):
            given = brief(answer_text(answer.target, answer.labels))
            wrong.append(f"{given} of {answer.key} ({_reason(answer, text)})")
    if not wrong:
        return []
    return [
        f"{len(wrong)} right answers would be scored as wrong when they are given; rename the classes, or mend or "
        f"remove the rows: {shown(wrong, NAMED)}"
    ]


def _asked(target: Target, labels: Sequence[str]) -> Iterator[Target]:
    """What is to be answered about a target, apart."""
    if isinstance(target, Question):
        yield from (Question("", (answer,), target.rule) for answer in target.answers)
    else:
        yield visible(target, labels) if isinstance(target, tuple) else target


def _reason(answer: RightAnswer, text: str) -> str:
    """Why it does not score full."""
    if tags := dict.fromkeys(TAG.findall(answer_text(answer.target, answer.labels))):
        return f"it holds {', '.join(tags)}, a tag of the reply"
    if text != answer.text:
        return f"the model's tokenizer gives it back as {brief(text)}"
    return f"the reply {brief(text)} is not read as a thought and this answer"
