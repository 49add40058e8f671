"""Supervised fine-tuning: cross-entropy on ``<think>…</think><answer>label</answer>`` targets.

The wording of the thought should be one that the base model itself uses: a foreign template costs it the format.
"""

from dataclasses import dataclass

from methods.base import Method
from methods.settings import check
from task_streams.prompt import THOUGHTS


@dataclass(frozen=True)
class SftConfig:
    """Settings of supervised fine-tuning."""

    thought: str = THOUGHTS[0]
    """Wording of the thought in the targets, with {label} in it."""

    def __post_init__(self) -> None:
        check(self, thought=("{label}" in self.thought, "a wording that contains {label}"))


class Sft(Method):
    """Fine-tune on each task's labels in turn, nothing done against forgetting."""

    name = "sft"
    family = "supervised"
    works_split = True
    Config = SftConfig
    source = "baseline"


class JointSft(Sft):
    """Upper bound: one supervised run on the union of all tasks."""

    name = "joint_sft"
    joint = True
