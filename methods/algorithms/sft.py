"""Supervised fine-tuning: cross-entropy on ``<think>…</think><answer>label</answer>`` targets.

The wording of the thought should be one that the base model itself uses: a foreign template costs it the format.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from methods.base import Method
from task_streams.config import Settings
from task_streams.prompt import THOUGHTS

Thought = Annotated[str, Field(pattern=r"\{label\}", title="a wording that contains {label}")]


@dataclass(frozen=True)
class SftConfig(Settings):
    """Settings of supervised fine-tuning."""

    thought: Thought = THOUGHTS[0]
    """Wording of the thought in the targets, with {label} in it."""


class Sft(Method):
    """Fine-tune on each task's labels in turn, nothing done against forgetting."""

    name, family = "sft", "supervised"
    works_split = True
    Config = SftConfig
    source = "baseline"


class JointSft(Sft):
    """Upper bound: one supervised run on the union of all tasks."""

    name = "joint_sft"
    joint = True
