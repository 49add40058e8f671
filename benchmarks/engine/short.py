"""No slower anywhere: a training step where there is little to share, ours against the plain path.

Prompts hardly longer than the chat frame with an image, and the task's own; short completions; groups from 2.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

from benchmarks.engine.models import load
from benchmarks.engine.options import Options
from benchmarks.engine.pairs import Case
from benchmarks.engine.step import step_case
from benchmarks.engine.workload import shortest_prompt

NAMES = ("grpo_plain", "grpo")
COMPLETIONS = (8, 24)


def cases(options: Options, scratch: Path) -> Iterator[Case]:
    """One case for each prompt, completion and group."""
    lengths = (shortest_prompt(options, load(options).processor), options.prompt_tokens)
    for prompt, completion, group in product(lengths, COMPLETIONS, options.groups):
        one = replace(options, prompt_tokens=prompt, completion_tokens=completion, group=group)
        yield step_case(one, scratch, NAMES)
