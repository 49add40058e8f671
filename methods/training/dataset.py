"""A task's examples as the datasets that TRL's trainers read: decoded when a batch needs them, never all at once."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from datasets import Dataset

from eval.judgement import COMPONENTS, Score
from eval.score import score
from task_streams.errors import UserError
from task_streams.prompt import Request, request, target_text
from task_streams.types import Example, Task

JUDGED = 65536  # scores that are kept: the components of one reward ask for the same completions


Prepare = Callable[[Request], Request]  # a question as a policy is asked it


def as_it_is(asked: Request) -> Request:
    """Leaves resizing to the model's processor, and images before their text."""
    return asked


def rollout_dataset(task: Task, prepare: Prepare = as_it_is) -> Dataset:
    """Rows of prompt, images, clips and key for group rollouts; one row per example."""

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        asked = _asked([task.train[i] for i in batch["row"]], task, prepare)
        return {
            "prompt": [one.messages for one in asked],
            "images": [list(one.images) for one in asked],
            "clips": [list(one.clips) for one in asked],
            "key": [one.key for one in asked],
        }

    return _indexed(len(task.train)).with_transform(rows)


def target_dataset(
    task: Task,
    thought: str,
    prepare: Prepare = as_it_is,
    targets: Mapping[str, Sequence[str]] | None = None,
) -> Dataset:
    """Rows of prompt, completion, images and clips for supervised training.

    One row per example, or per completion in ``targets`` (by item key), which are read anew for every batch.

    Raises:
        UserError: ``targets`` has no completion of any example.
    """

    def pairs() -> list[tuple[Example, str]]:
        return [(example, text) for example in task.train for text in (targets or {}).get(example.key, ())]

    def learned(row: int, now: list[tuple[Example, str]]) -> tuple[Example, str]:
        if targets is not None:
            return now[row % len(now)]  # there may be fewer than there were at first
        example = task.train[row]
        return example, target_text(example.target, thought, task.style, task.trained)

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        now = pairs()
        chosen = [learned(row, now) for row in batch["row"]]
        asked = _asked([example for example, _ in chosen], task, prepare)
        return {
            "prompt": [one.messages for one in asked],
            "completion": [[{"role": "assistant", "content": [{"type": "text", "text": text}]}] for _, text in chosen],
            "images": [list(one.images) for one in asked],
            "clips": [list(one.clips) for one in asked],
        }

    length = len(task.train) if targets is None else len(pairs())
    if length == 0:
        raise UserError(f"task {task.name!r} has no completion to train towards; expected at least one.")
    return _indexed(length).with_transform(rows)


def reward_functions(task: Task) -> list[Any]:
    """The task reward's components as TRL calls them, each 0 to 1 per completion; which ones: ``COMPONENTS``."""
    targets = {example.key: example.target for example in task.train}

    @lru_cache(maxsize=JUDGED)
    def judged(text: str, key: str) -> Score:
        return score(text, targets[key], task.trained, task.style)

    def component(name: str) -> Any:
        def reward(completions: list[Any], key: list[str], **_: Any) -> list[float]:
            texts = [completion[0]["content"] for completion in completions]
            return [judged(text, one).components[name] for text, one in zip(texts, key, strict=True)]

        reward.__name__ = name  # TRL logs the component under it
        return reward

    return [component(name) for name in COMPONENTS[task.kind]]


def _asked(examples: Sequence[Example], task: Task, prepare: Prepare) -> list[Request]:
    """The question about each example; a group shares its prompt, so its media are decoded once."""
    asked: dict[str, Request] = {}
    for example in examples:
        if example.key not in asked:
            asked[example.key] = prepare(request(example, task.trained, task.style))
    return [asked[example.key] for example in examples]


def _indexed(length: int) -> Dataset:
    return Dataset.from_dict({"row": list(range(length))})
