"""Group relative policy optimisation (arXiv 2402.03300), by TRL's own trainer.

Clipped policy loss with a k3 KL term to the base (not to the previous task), group-scaled advantages.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat

from methods.base import Method, Need
from task_streams.config import Count, PositiveShare, Settings

MORE = "a whole number from 2: advantages compare completions of one prompt with each other"
Group = Annotated[int, Field(ge=2, title=MORE)]


@dataclass(frozen=True)
class GrpoConfig(Settings):
    """Settings of GRPO; defaults of RaPO (arXiv 2605.09640): G its paper's, the others its released code's."""

    group_size: Group = 8
    """Completions per prompt, G (at least 2)."""
    kl: NonNegativeFloat = 2e-3
    """Coefficient of the k3 KL term to the base (0: no reference model is kept)."""
    clip: PositiveFloat = 0.2
    """Clipping range of the policy ratio (above 0)."""
    updates_per_batch: Count = 1
    """Optimizer steps on each batch of rollouts (at least 1): with one, no ratio leaves 1 and no clipping acts."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature of rollouts (above 0)."""
    top_p: PositiveShare = 1.0
    """Nucleus of rollout sampling, in (0, 1]."""


class Grpo(Method):
    """GRPO on each task in turn, nothing done against forgetting beyond its KL to the base."""

    name, family = "grpo", "reinforcement"
    works_split = True
    Config = GrpoConfig
    needs_with: ClassVar[Mapping[Need, str]] = {"reference": "kl"}
    source = "arXiv 2402.03300"

    config: GrpoConfig


class JointGrpo(Grpo):
    """Upper bound: one GRPO run on the union of all tasks."""

    name = "joint_grpo"
    joint = True
