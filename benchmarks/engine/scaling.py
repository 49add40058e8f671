"""How the gain grows: a training step over the group's size, the prompt's length and the batch, one after the other.

Every axis starts from the options; the prompts that ``lengths`` asks for are filled with made-up classes.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.engine.options import Options
from benchmarks.engine.pairs import Case
from benchmarks.engine.step import step_case

NAMES = ("stock", "grpo", "rapo")


def cases(options: Options, scratch: Path) -> Iterator[Case]:
    """One case for each value of each axis."""
    varied = [
        *(replace(options, group=group) for group in options.groups),
        *(replace(options, prompt_tokens=tokens) for tokens in options.lengths),
        *(replace(options, prompts=prompts) for prompts in options.batches),
    ]
    for one in dict.fromkeys(varied):
        yield step_case(one, scratch, NAMES)
