"""A task's examples as the datasets that TRL's trainers read: decoded when a batch needs them, never all at once."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from datasets import Dataset

from eval.judgement import COMPONENTS, Score
from eval.score import score
from methods.inputs.fit_image import Prepared, as_it_is
from task_streams.errors import UserError
from task_streams.prompt import Request, request, target_text
from task_streams.types import Example, Task

JUDGED = 65536  # scores that are kept: the components of one reward ask for the same completions
UNCHANGED = Prepared("first", as_it_is)  # leaves resizing to the model's processor, and images before their text

Prepare = Callable[[Request], Request]  # a question as a policy is asked it


def rollout_dataset(task: Task, prepare: Prepare = UNCHANGED) -> Dataset:
    """Rows of prompt, images, clips and key for group rollouts; one row per example."""

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        examples = [task.train[row] for row in batch["row"]]
        return {**_asked(examples, task, prepare), "key": [example.key for example in examples]}

    return Dataset.from_dict({"row": list(range(len(task.train)))}).with_transform(rows)


def target_dataset(
    task: Task, thought: str, prepare: Prepare = UNCHANGED, targets: Mapping[str, Sequence[str]] | None = None
) -> Dataset:
    """Rows of prompt, completion, images and clips for supervised training.

    One row per example, or per completion in ``targets`` (by item key), which are read anew for every batch.

    Raises:
        UserError: ``targets`` has no completion of any example.
    """
    true = {e.key: (target_text(e.target, thought, task.style, task.trained),) for e in task.train if targets is None}
    texts: Mapping[str, Sequence[str]] = true if targets is None else targets

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        now = [(example, text) for example in task.train for text in texts.get(example.key, ())]
        chosen = [now[row % len(now)] for row in batch["row"]]  # there may be fewer than there were at first
        return {
            **_asked([example for example, _ in chosen], task, prepare),
            "completion": [[{"role": "assistant", "content": [{"type": "text", "text": text}]}] for _, text in chosen],
        }

    length = sum(len(texts.get(example.key, ())) for example in task.train)
    if length == 0:
        raise UserError(f"task {task.name!r} has no completion to train towards; expected at least one.")
    return Dataset.from_dict({"row": list(range(length))}).with_transform(rows)


def _asked(examples: Sequence[Example], task: Task, prepare: Prepare) -> dict[str, list[Any]]:
    """The question about each example, by columns; a group shares its prompt, so its media are decoded once."""
    asked: dict[str, Request] = {}
    for example in examples:
        if example.key not in asked:
            asked[example.key] = prepare(request(example, task.trained, task.style))
    each = [asked[example.key] for example in examples]
    return {
        "prompt": [one.messages for one in each],
        "images": [list(one.images) for one in each],
        "clips": [list(one.clips) for one in each],
    }


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
