"""Group relative policy optimisation (arXiv 2402.03300), by TRL's own trainer.

Clipped policy loss with a k3 KL term to the base (not to the previous task), group-scaled advantages.
"""

from dataclasses import dataclass

from methods.base import Method, Need
from methods.settings import ABOVE_0, ABOVE_0_TO_1, FROM_0, WHOLE_FROM_1, check


@dataclass(frozen=True)
class GrpoConfig:
    """Settings of GRPO; defaults of RaPO (arXiv 2605.09640): G its paper's, the others its released code's."""

    group_size: int = 8
    """Completions per prompt, G (at least 2)."""
    kl: float = 2e-3
    """Coefficient of the k3 KL term to the base (0: no reference model is kept)."""
    clip: float = 0.2
    """Clipping range of the policy ratio (above 0)."""
    updates_per_batch: int = 1
    """Optimizer steps on each batch of rollouts (at least 1): with one, no ratio leaves 1 and no clipping acts."""
    temperature: float = 1.0
    """Sampling temperature of rollouts (above 0)."""
    top_p: float = 1.0
    """Nucleus of rollout sampling, in (0, 1]."""

    def __post_init__(self) -> None:
        check(
            self,
            group_size=(
                self.group_size >= 2,
                "a whole number from 2: advantages compare completions of one prompt with each other",
            ),
            kl=FROM_0,
            clip=ABOVE_0,
            updates_per_batch=WHOLE_FROM_1,
            temperature=ABOVE_0,
            top_p=ABOVE_0_TO_1,
        )


class Grpo(Method):
    """GRPO on each task in turn, nothing done against forgetting beyond its KL to the base."""

    name = "grpo"
    family = "reinforcement"
    works_split = True
    Config = GrpoConfig
    source = "arXiv 2402.03300"

    config: GrpoConfig

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"reference"} if self.config.kl > 0 else ())


class JointGrpo(Grpo):
    """Upper bound: one GRPO run on the union of all tasks."""

    name = "joint_grpo"
    joint = True
