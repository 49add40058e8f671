"""RaPO, retention-aware policy optimisation (arXiv 2605.09640, sections 3.1-3.3).

GRPO with a retention reward for low drift from the anchor (the previous task's policy, or another past one), and with
advantages normalised by a running scale (CTAN) that crosses task boundaries. The paper is the default;
``preset: released_code`` switches to what the released code does where the two differ. A value given by name wins over
the preset's.
"""

from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from torch import Tensor

from methods.advantage import RunningScale, group_advantages, guarded, scaled_advantages
from methods.base import AnchorKind, AnchorRule, Need, Rollouts, TaskContext
from methods.grpo import Grpo, GrpoConfig
from methods.retention import drift, retention_reward
from methods.settings import require

# Where paper and released code differ; "not stated" in the paper is marked.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "ctan_from_task": 1,  # not stated; the scale "is carried across all tasks"
        "momentum_warmup": False,
        "boundary": "carry",
        "scale_floor": 0.0,
        "guard": 0.0,
        "epsilon": 1e-6,  # not stated
    },
    "released_code": {
        "ctan_from_task": 2,
        "momentum_warmup": True,
        "boundary": "last_batch",
        "scale_floor": 1e-3,
        "guard": 5.0,
        "epsilon": 1e-6,
    },
}
WARMUP_MOMENTA = (0.9, 0.9495)  # the released code's first two steps of each task


@dataclass(frozen=True)
class RapoConfig(GrpoConfig):
    """Settings of RaPO on top of GRPO's; null stands for the preset's value."""

    preset: str = "paper"
    """paper or released_code: which of the two decides where they differ."""
    retention: bool = True
    """Add the retention reward (from task 2 on)."""
    retention_weight: float = 0.5
    """Weight lambda of the retention reward (0 or more)."""
    retention_sharpness: float = 20.0
    """Sharpness alpha in exp(-alpha * drift) (above 0), per nat."""
    anchor: str = "previous"
    """Policy that drift is measured from: previous (task's), first (task's), average (of past tasks') or base."""
    anchor_momentum: float = 0.5
    """Momentum m of the average, a <- m a + (1 - m) policy once per task, in [0, 1)."""
    ctan: bool = True
    """Normalise advantages by the running scale instead of each group's deviation."""
    scale_momentum: float = 0.999
    """Momentum beta of the running scale, in [0, 1)."""
    scale_init_above: float = 0.01
    """The first batch whose reward deviation exceeds this initialises the scale (0 or more)."""
    scale_init_batches: int = 1
    """Warm start: the scale is the plain mean of the first so many such batches' deviations (1 or more)."""
    ctan_from_task: int | None = None
    """First task whose advantages use the running scale (from 1)."""
    momentum_warmup: bool | None = None
    """Start each task with momenta 0.9, 0.9495 before the full one."""
    boundary: str | None = None
    """At a task boundary: carry (keep the scale) or last_batch (replace it by the last batch's deviation)."""
    scale_floor: float | None = None
    """Lower bound of the running scale (0: none)."""
    guard: float | None = None
    """A group with any advantage beyond this falls back to its own deviation (0: no guard)."""
    epsilon: float | None = None
    """Added to the running scale in the division (above 0)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            "method",
            preset=(self.preset in PRESETS, self.preset, f"one of {', '.join(PRESETS)}"),
            retention_weight=(self.retention_weight >= 0, self.retention_weight, "a number from 0"),
            retention_sharpness=(self.retention_sharpness > 0, self.retention_sharpness, "a number above 0"),
            anchor=(self.anchor in get_args(AnchorKind), self.anchor, f"one of {', '.join(get_args(AnchorKind))}"),
            anchor_momentum=(0 <= self.anchor_momentum < 1, self.anchor_momentum, "a number in [0, 1)"),
            scale_momentum=(0 <= self.scale_momentum < 1, self.scale_momentum, "a number in [0, 1)"),
            scale_init_above=(self.scale_init_above >= 0, self.scale_init_above, "a number from 0"),
            scale_init_batches=(self.scale_init_batches >= 1, self.scale_init_batches, "a whole number from 1"),
            ctan_from_task=(self.ctan_from_task is None or self.ctan_from_task >= 1, self.ctan_from_task, "from 1"),
            boundary=(self.boundary in (None, "carry", "last_batch"), self.boundary, "carry or last_batch"),
            scale_floor=(self.scale_floor is None or self.scale_floor >= 0, self.scale_floor, "a number from 0"),
            guard=(self.guard is None or self.guard >= 0, self.guard, "a number from 0"),
            epsilon=(self.epsilon is None or self.epsilon > 0, self.epsilon, "a number above 0"),
        )

    def resolved(self) -> dict[str, Any]:
        """The preset's values with those given by name on top."""
        preset = PRESETS[self.preset]
        given = {field: getattr(self, field) for field in preset}
        return {field: preset[field] if value is None else value for field, value in given.items()}


class Rapo(Grpo):
    """GRPO with the retention reward and cross-task advantage normalisation."""

    name = "rapo"
    Config = RapoConfig
    source = "arXiv 2605.09640"

    config: RapoConfig

    def __init__(self, config: RapoConfig) -> None:
        super().__init__(config)
        self.rule = config.resolved()
        self.scale = RunningScale(
            init_above=config.scale_init_above, floor=self.rule["scale_floor"], init_batches=config.scale_init_batches
        )
        self.last_std: float | None = None
        self.steps_in_task = 0

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | (frozenset({"anchor"}) if self.config.retention else frozenset())

    @property
    def anchor_rule(self) -> AnchorRule:
        return AnchorRule(cast(AnchorKind, self.config.anchor), self.config.anchor_momentum)

    def before_task(self, context: TaskContext) -> None:
        self.steps_in_task = 0
        if self.rule["boundary"] == "last_batch" and self.last_std is not None:
            self.scale = self.scale.at(max(self.last_std, self.rule["scale_floor"]))

    def shape_rewards(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        """Equation 3: the task reward, plus lambda times the retention reward from task 2 on, [B*G]."""
        if not self.config.retention or rollouts.task_index == 1:
            return rewards
        if rollouts.actor_logps is None or rollouts.anchor_logps is None:
            raise RuntimeError(f"task {rollouts.task_index} has no anchor: the retention reward is undefined")
        drifts = drift(rollouts.actor_logps, rollouts.anchor_logps, rollouts.mask)
        retention = retention_reward(drifts, self.config.retention_sharpness)
        rollouts.log("drift", drifts.mean().item())
        rollouts.log("retention_reward", retention.mean().item())
        return rewards + self.config.retention_weight * retention

    def normalize_advantages(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        """Equations 4 and 5, [B*G] to [B*G]; group deviations until the scale is initialised and active."""
        if not self.config.ctan:
            return group_advantages(rewards, rollouts.group_size)
        self._observe(rewards, rollouts)
        if self.scale.value is None or rollouts.task_index < self.rule["ctan_from_task"]:
            return group_advantages(rewards, rollouts.group_size)
        advantages = scaled_advantages(rewards, rollouts.group_size, self.scale.value, self.rule["epsilon"])
        limit = self.rule["guard"]
        return guarded(advantages, rewards, rollouts.group_size, limit) if limit else advantages

    def _observe(self, rewards: Tensor, rollouts: Rollouts) -> None:
        self.last_std = torch.std(rewards).item()
        self.scale = self.scale.observed(self.last_std, self._momentum())
        self.steps_in_task += 1
        rollouts.log("reward_std_batch", self.last_std)
        if self.scale.value is not None:
            rollouts.log("running_scale", self.scale.value)

    def _momentum(self) -> float:
        if self.rule["momentum_warmup"] and self.steps_in_task < len(WARMUP_MOMENTA):
            return WARMUP_MOMENTA[self.steps_in_task]
        return self.config.scale_momentum

    def state_dict(self) -> dict[str, Any]:
        return {
            "scale": self.scale.value,
            "scale_batches": self.scale.averaged,
            "last_std": self.last_std,
            "steps_in_task": self.steps_in_task,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale = self.scale.at(state["scale"], state["scale_batches"])
        self.last_std = state["last_std"]
        self.steps_in_task = state["steps_in_task"]

    def describe(self) -> dict[str, Any]:
        anchor = {"anchor": str(self.anchor_rule)} if "anchor" in self.needs else {}
        return {"preset_values": self.rule, **anchor}


@dataclass(frozen=True)
class RapoRetentionConfig(RapoConfig):
    """RaPO's settings with the running scale off."""

    ctan: bool = False
    """Normalise advantages by the running scale instead of each group's deviation."""


class RapoRetention(Rapo):
    """RaPO's retention reward alone."""

    name = "rapo_rr"
    Config = RapoRetentionConfig


@dataclass(frozen=True)
class RapoScaleConfig(RapoConfig):
    """RaPO's settings with the retention reward off."""

    retention: bool = False
    """Add the retention reward (from task 2 on)."""


class RapoScale(Rapo):
    """RaPO's running scale alone."""

    name = "rapo_ctan"
    Config = RapoScaleConfig
