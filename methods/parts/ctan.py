"""RaPO's cross-task advantage normalisation (arXiv 2605.09640, section 3.3), a part that joins any group rollouts.

Advantages are rewards centred in their group and divided by a running scale of the batches' reward deviations, which
crosses task boundaries (equations 5 and 6). The paper is the default; ``preset: released_code`` does what the released
code does where the two differ. A value given by name wins over the preset's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from methods.advantage import GROUP_EPSILON, RunningScale, group_advantages, guarded, scaled_advantages
from methods.base import Family, Method, Rollouts, TaskContext
from methods.lazy import Tensor, torch
from task_streams.config import Count, Momentum, Settings

# Where paper and released code differ; "not stated" in the paper is marked.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "ctan_from_task": 1,  # not stated; the scale "is carried across all tasks"
        "momentum_warmup": False,
        "boundary": "carry",
        "scale_floor": 0.0,
        "guard": 0.0,
        "epsilon": 1e-6,  # not stated
        "group_epsilon": GROUP_EPSILON,  # not stated; TRL's
    },
    "released_code": {
        "ctan_from_task": 2,
        "momentum_warmup": True,
        "boundary": "last_batch",
        "scale_floor": 1e-3,
        "guard": 5.0,
        "epsilon": 1e-6,
        "group_epsilon": 1e-6,
    },
}
WARMUP_MOMENTA = (0.9, 0.9495)  # the released code's first two steps of each task


@dataclass(frozen=True)
class CtanConfig(Settings):
    """Settings of the running scale; null stands for the preset's value."""

    preset: Literal["paper", "released_code"] = "paper"
    """paper or released_code: which of the two decides where they differ."""
    scale_momentum: Momentum = 0.999
    """Momentum beta of the running scale, in [0, 1)."""
    scale_init_above: NonNegativeFloat = 0.01
    """The first batch whose reward deviation exceeds this initialises the scale (0 or more)."""
    scale_init_batches: Count = 1
    """Warm start: the scale is the plain mean of the first so many such batches' deviations (1 or more)."""
    ctan_from_task: Count | None = None
    """First task whose advantages use the running scale (from 1)."""
    momentum_warmup: bool | None = None
    """Start each task with momenta 0.9, 0.9495 before the full one."""
    boundary: Literal["carry", "last_batch"] | None = None
    """At a task boundary: carry (keep the scale) or last_batch (replace it by the last batch's deviation)."""
    scale_floor: NonNegativeFloat | None = None
    """Lower bound of the running scale where it is used (0: none)."""
    guard: NonNegativeFloat | None = None
    """A group with any advantage beyond this falls back to its own deviation (0: no guard)."""
    epsilon: PositiveFloat | None = None
    """Added to the running scale in the division (above 0)."""
    group_epsilon: PositiveFloat | None = None
    """Added to a group's own deviation where that is divided by (above 0)."""


def resolved(config: Any, presets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The values of a config's preset, with those on top that are given by name."""
    preset = presets[config.preset]
    given = {field: getattr(config, field) for field in preset}
    return {field: preset[field] if value is None else value for field, value in given.items()}


class Ctan(Method):
    """Advantages by a running scale that crosses task boundaries."""

    name = "ctan"
    family: Family = "part"
    joins = frozenset({"reinforcement"})
    works_split = True
    Config: ClassVar[type] = CtanConfig
    source = "arXiv 2605.09640"
    state_settings: ClassVar[frozenset[str]] = frozenset({"scale_momentum", "scale_init_above", "scale_init_batches"})

    config: CtanConfig

    def __init__(self, config: CtanConfig) -> None:
        super().__init__(config)
        self.rule = resolved(config, PRESETS)
        self.scale = RunningScale(
            init_above=config.scale_init_above, floor=self.rule["scale_floor"], init_batches=config.scale_init_batches
        )
        self.last_std: float | None = None
        self.steps_in_task = 0

    def before_task(self, context: TaskContext) -> None:
        self.steps_in_task = 0
        if self.rule["boundary"] == "last_batch" and self.last_std is not None:
            self.scale = self.scale.at(self.last_std)

    def normalize_advantages(self, rewards: Tensor, rollouts: Rollouts) -> Tensor:
        """Equations 5 and 6, [B*G] to [B*G]; group deviations until the scale is initialised and active."""
        warming = self.rule["momentum_warmup"] and self.steps_in_task < len(WARMUP_MOMENTA)
        momentum = WARMUP_MOMENTA[self.steps_in_task] if warming else self.config.scale_momentum
        self.last_std = torch.std(rewards).item()
        self.scale = self.scale.observed(self.last_std, momentum)
        self.steps_in_task += 1
        rollouts.log("reward_std_batch", self.last_std)
        if self.scale.value is not None:
            rollouts.log("running_scale", self.scale.value)
        group_epsilon = self.rule["group_epsilon"]
        if self.scale.value is None or rollouts.task_index < self.rule["ctan_from_task"]:
            return group_advantages(rewards, rollouts.group_size, group_epsilon)
        advantages = scaled_advantages(rewards, rollouts.group_size, self.scale.value, self.rule["epsilon"])
        limit = self.rule["guard"]
        return guarded(advantages, rewards, rollouts.group_size, limit, group_epsilon) if limit else advantages

    def state_dict(self) -> dict[str, Any]:
        return {
            "scale": self.scale.value,
            "scale_batches": self.scale.averaged,
            "last_std": self.last_std,
            "steps_in_task": self.steps_in_task,
            "scale_momentum": self.config.scale_momentum,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As its base says.

        Raises:
            ValueError: the scale was made with another momentum.
        """
        momentum = state.get("scale_momentum", self.config.scale_momentum)  # versions before did not write it
        if momentum != self.config.scale_momentum:
            raise ValueError(
                f"the running scale was made with scale_momentum={momentum:g}, expected {self.config.scale_momentum:g}"
            )
        self.scale = self.scale.at(state["scale"], state["scale_batches"])
        self.last_std = state["last_std"]
        self.steps_in_task = state["steps_in_task"]

    def describe(self) -> dict[str, Any]:
        return {"preset_values": self.rule}
