"""What the contenders work on: real digits, asked with prompts of an exact length.

A long prompt lists more classes: made-up names follow the task's own. One that is shorter than the class list allows
asks a question of its own, without a thought: the chat frame, the image, and hardly more.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.engine.options import Options
from methods.inputs.media import with_media
from methods.inputs.prompts import Prompts
from methods.model.policy import Policy
from task_streams import STREAMS, build_stream
from task_streams.errors import UserError
from task_streams.prompt import Request, request
from task_streams.prompt_style import prompt_style
from task_streams.types import Example, Question, Task

ORDER_SEED = 1993
SYLLABLES = tuple(first + second for first in "bcdfghjklmnprstvwz" for second in "aeiou")
FILLER = "z"  # repeated: a letter that the embedded tokenizer merges with nothing


@dataclass(frozen=True, slots=True)
class Workload:
    """A task and how long its prompts are.

    Attributes:
        task: the second of its stream, so that there is an anchor.
        prompt_tokens: length of every prompt, its image included.
    """

    task: Task
    prompt_tokens: int

    def requests(self, count: int) -> list[Request]:
        """The questions about the first training items."""
        return [request(one, self.task.trained, self.task.style) for one in self.task.train[:count]]


def workload(options: Options, processor: Any) -> Workload:
    """The task that the options ask for.

    Raises:
        UserError: no prompt of that length can be made.
    """
    task, wanted = own_task(options), options.prompt_tokens
    for ways in (with_more_classes, with_own_question):
        for made in [task] if wanted is None else ways(task, wanted, processor):
            length = prompt_length(processor, made)
            if wanted in (None, length):
                return Workload(made, length)
    least = prompt_length(processor, asking(task, FILLER))
    raise UserError(f"--prompt-tokens: got {wanted}, expected at least {least}")


def shortest_prompt(options: Options, processor: Any) -> int:
    """Tokens of the shortest prompt that can be asked for."""
    return prompt_length(processor, asking(own_task(options), FILLER))


def own_task(options: Options) -> Task:
    """The second task of the digits, with enough items to train on and to test."""
    each = math.ceil(options.items / 2)  # of both classes
    config = STREAMS["digits_cil"].config(shots=max(24, math.ceil(options.prompts / 2)), test_per_class=each)
    task: Task = build_stream("digits_cil", config, ORDER_SEED).tasks[1]
    return task


def with_more_classes(task: Task, wanted: int, processor: Any) -> Iterator[Task]:
    """The task with made-up classes on its list, about as many as a prompt of so many tokens has room for."""

    def listing(count: int, letters: int = 0) -> Task:
        names = [made_up(index) for index in range(count)]
        names[-1:] = [names[-1] + FILLER * letters] if names else []
        return dataclasses.replace(task, seen=(*task.seen, *names))

    def fits(count: int) -> bool:
        return prompt_length(processor, listing(count)) <= wanted

    if fits(0):
        count = last_that(fits, wanted // 4)  # a name has more tokens than that
        yield from (listing(count, letters) for letters in range(12))


def with_own_question(task: Task, wanted: int, processor: Any) -> Iterator[Task]:
    """The task's items with a question each in place of the class list, made of so many letters."""
    least = prompt_length(processor, asking(task, FILLER))
    yield from (asking(task, FILLER * (wanted - least + more)) for more in range(1, 4) if wanted >= least)


def asking(task: Task, text: str) -> Task:
    """The task with a question in place of the class list, without a thought."""

    def asked(example: Example) -> Example:
        return dataclasses.replace(example, target=Question(text, (example.label,)))

    train, test = (tuple(asked(one) for one in part) for part in (task.train, task.test))
    silent = prompt_style("suite", think=False)
    return dataclasses.replace(task, kind="question", classes=(), seen=(), train=train, test=test, style=silent)


def last_that(holds: Callable[[int], bool], bound: int) -> int:
    """The largest number up to ``bound`` for which something holds that holds for 0 and ends once, by bisection."""
    low, high = 0, bound + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def made_up(index: int) -> str:
    """A class name that no other index has."""
    parts = len(SYLLABLES)
    return SYLLABLES[index % parts] + SYLLABLES[index // parts % parts] + SYLLABLES[index // parts**2 % parts]


def prompt_length(processor: Any, task: Task) -> int:
    """Tokens of a task's prompts, those of the image included; all its images are of one size."""
    asked = request(task.train[0], task.trained, task.style)
    batch = processor.apply_chat_template(
        [with_media(asked.messages, asked.media)], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return len(batch["input_ids"][0])


def grouped_prompts(policy: Policy, work: Workload, options: Options) -> tuple[Prompts, Tensor]:
    """The prompts of a batch of groups, each once, and which of them each completion follows, G in a row, [P * G]."""
    prompts = policy.prompts(work.requests(options.prompts))
    return prompts, torch.arange(len(prompts.ids), device=policy.device).repeat_interleave(options.group)
