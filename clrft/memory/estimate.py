"""From a run's settings to what each of its processes needs of its device's memory; nothing is loaded for it.

Prompts are as long as those that were looked at, or, before any data are read, as long as ``train.max_prompt_tokens``
allows. Of several processes each has activations of its share of the rows. Where weights are split it keeps its part of
weights, gradients, moments, anchor and reference, and beside them what is gathered: all of the policy while rollouts
are sampled, all models in tests and drift, and elsewhere what is outside of the layers, the layer that is computed and
the next one. Drift counts as a peak of its own there: every process measures all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from clrft.config.run_config import RunConfig
from clrft.memory.available_memory import capacity_bytes
from clrft.memory.model_sizes import ModelSizes, model_sizes
from clrft.memory.phases import ALONE, Footprint, Longest, Phases, Sharing, gib
from methods import build_method
from methods.lazy import torch
from methods.model.config import choose_device
from methods.model.numerics import keeps_all, looking_at_weights
from methods.settings import AUTO, KAHAN, PLAIN, WIDE


class Estimate(dict[str, Footprint]):
    """Memory of a run: of ``training`` a task, which is missing where nothing is trained, and of ``testing``."""

    @classmethod
    def recorded(cls, memory: Mapping[str, Any]) -> Estimate:
        """The estimate that a manifest holds."""
        found = {name: memory[name] for name in ("training", "testing") if name in memory}
        return cls({name: Footprint(one["phase"], one["parts"]) for name, one in found.items()})

    @property
    def peak(self) -> Footprint:
        """The one that needs more."""
        return max(self.values(), key=lambda one: one.total)

    def to_json(self) -> dict[str, Any]:
        """Bytes by phase and part, for the manifest."""
        return {name: {"bytes": one.total, "phase": one.phase, "parts": dict(one.parts)} for name, one in self.items()}

    def line(self, available: int | None) -> str:
        """What a run needs, on one line."""
        there, peak = "" if available is None else f" of {gib(available)} GiB", self.peak
        return f"about {gib(peak.total)} GiB{there} ({peak.phase}): {peak.largest}"


def estimate(
    config: RunConfig, sizes: ModelSizes, device: torch.device, longest: Longest, sharing: Sharing = ALONE
) -> Estimate:
    """What a process of a run needs of its device, by the sizes of its model and its longest prompts."""
    phases = Phases(config, sizes, device, longest, sharing)
    both = {} if phases.method.family == "frozen" else {"training": phases.training()}
    both["testing"] = phases.testing()
    return Estimate({name: max(each, key=lambda phase: phase.total) for name, each in both.items()})


def decided(config: RunConfig, needed: Callable[[RunConfig], int], capacity: int | None) -> RunConfig:
    """The settings with the optimizer that ``train.optimizer=auto`` stands for.

    Weights are held in float32 where the device has the memory, by its size and not by what is free at the moment, so
    that all cells of a sweep decide alike; and where a method looks at them. Else they are compensated. Weights that
    nothing trains stay as the model computes. ``needed`` tells the bytes that a run of some settings needs;
    ``capacity`` those that the device has, None if nothing tells.
    """
    if config.train.optimizer != AUTO:
        return config
    method = build_method(config.method_name, config.method, config.parts)
    if keeps_all(config.model) or method.family == "frozen":
        return with_optimizer(config, PLAIN)
    wide = with_optimizer(config, WIDE)
    if capacity is None or looking_at_weights(method) or needed(wide) <= capacity:
        return wide
    return with_optimizer(config, KAHAN)


def with_optimizer(config: RunConfig, optimizer: str) -> RunConfig:
    """The settings with an optimizer by name."""
    return replace(config, train=replace(config.train, optimizer=optimizer))  # type: ignore[arg-type]


def longest_allowed(config: RunConfig, sizes: ModelSizes) -> Longest:
    """The longest prompt that the settings allow: one image of the largest size, or nothing but image."""
    tokens, area = config.train.max_prompt_tokens, sizes.patch**2
    patches = tokens * sizes.shape.merge**2
    if config.model.max_pixels is not None:
        patches = min(patches, config.model.max_pixels // area)
    return Longest(tokens, patches, 1, patches * area)


def allowed_estimate(config: RunConfig) -> tuple[Estimate, torch.device] | None:
    """The estimate by the settings and the checkpoint's config alone, and its device; None for an unknown family.

    Raises:
        OSError: the checkpoint's config is not on this machine.
        UserError: the settings ask for what this machine does not have.
    """
    sizes = model_sizes(config.model)
    if sizes is None:
        return None
    device, longest = choose_device(config.model), longest_allowed(config, sizes)
    config = decided(config, lambda one: estimate(one, sizes, device, longest).peak.total, capacity_bytes(device))
    return estimate(config, sizes, device, longest), device
