"""Label-free reward: agreement with the majority answer of the group (TTRL, arXiv 2504.16084).

For domain streams whose later domains come without labels. The component that needs the label is taken out of the
reward, and 1 for the majority's answer is put in; the format component stays. Answers are compared as labels are;
of answers given equally often the one that came first wins, an answer that cannot be read does not vote, and a group
without any vote earns nothing. Boxes have no one answer to vote for and are refused.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pydantic import NonNegativeInt

from eval.parse import parse_completion
from methods.base import Method, Rollouts, TaskContext
from methods.lazy import Tensor, torch
from task_streams.config import Settings
from task_streams.errors import UserError
from task_streams.labels import normalise_label


@dataclass(frozen=True)
class MajorityConfig(Settings):
    """Settings of the majority reward."""

    labelled_tasks: NonNegativeInt = 1
    """First tasks that keep the reward of their labels (0 or more); later ones are learned without."""


class Majority(Method):
    """Label-free reward: 1 for the answer that most rollouts of the group give."""

    name, family = "majority", "part"
    joins = frozenset({"reinforcement"})
    works_split = True
    Config = MajorityConfig
    source = "arXiv 2504.16084"

    config: MajorityConfig

    def before_task(self, context: TaskContext) -> None:
        if context.task.kind == "detection":
            raise UserError("majority: boxes have no one answer to vote for; expected classes or questions.")

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        if rollouts.task_index <= self.config.labelled_tasks:
            return rewards
        parsed = [parse_completion(text, rollouts.style).answer for text in rollouts.completions]
        answers = [None if answer is None else normalise_label(answer) for answer in parsed]
        agrees: list[float] = []  # 1 for rollouts that give the most frequent answer of their group, else 0
        for start in range(0, len(answers), rollouts.group_size):
            group = answers[start : start + rollouts.group_size]
            votes = Counter(answer for answer in group if answer is not None)
            winner = max(votes, key=votes.__getitem__) if votes else None
            agrees += [float(answer is not None and answer == winner) for answer in group]
        agreement = torch.tensor(agrees, device=rollouts.mask.device)  # [B*G]
        rollouts.log("majority_share", agreement.mean().item())
        return rewards - rollouts.components["accuracy"] + agreement
