"""A task's examples as the datasets that TRL's trainers read: decoded when a batch needs them, never all at once."""

from typing import Any

from datasets import Dataset

from eval.score import score_classification
from task_streams.prompt import prompt_messages, target_text
from task_streams.types import Task


def rollout_dataset(task: Task, think: bool) -> Dataset:
    """Rows of prompt, image, key and label for group rollouts; one row per example."""

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        examples = [task.train[i] for i in batch["row"]]
        images = {example.key: example.image() for example in examples}  # a group shares its prompt: decode once
        return {
            "prompt": [prompt_messages(task.seen, think) for _ in examples],
            "image": [images[example.key] for example in examples],
            "key": [example.key for example in examples],
            "label": [example.label for example in examples],
        }

    return _indexed(len(task.train)).with_transform(rows)


def target_dataset(task: Task, think: bool, thought: str) -> Dataset:
    """Rows of prompt, completion and image for supervised training; one row per example."""

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        examples = [task.train[i] for i in batch["row"]]
        return {
            "prompt": [prompt_messages(task.seen, think) for _ in examples],
            "completion": [_answer_turn(target_text(e.label, thought, think)) for e in examples],
            "image": [example.image() for example in examples],
        }

    return _indexed(len(task.train)).with_transform(rows)


def reward_functions(task: Task, think: bool) -> list[Any]:
    """The task reward's components as TRL calls them: ``accuracy`` and ``format``, each 0 or 1 per completion."""

    def accuracy(completions: list[Any], label: list[str], **_: Any) -> list[float]:
        return [float(_score(c, truth, task, think).correct) for c, truth in zip(completions, label, strict=True)]

    def format(completions: list[Any], label: list[str], **_: Any) -> list[float]:
        return [float(_score(c, truth, task, think).format_ok) for c, truth in zip(completions, label, strict=True)]

    return [accuracy, format]


def _score(completion: Any, label: str, task: Task, think: bool) -> Any:
    return score_classification(completion[0]["content"], label, task.seen, think)


def _answer_turn(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def _indexed(length: int) -> Dataset:
    return Dataset.from_dict({"row": list(range(length))})
