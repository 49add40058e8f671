"""From a run's settings to what each of its processes needs of its device's memory, and with what settings less.

Nothing is loaded for it, and nothing guessed: of other settings the memory is estimated anew.

Prompts are as long as those that were looked at, or, before any data are read, as long as ``train.max_prompt_tokens``
allows. Of several processes each has activations of its share of the rows. Where weights are split it keeps its part of
weights, gradients, moments, anchor and reference, and beside them what is gathered: all of the policy while rollouts
are sampled, all models in tests and drift, and elsewhere what is outside of the layers, the layer that is computed and
the next one. Drift counts as a peak of its own there: every process measures all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from clrft.config.run_config import RunConfig
from clrft.memory.available_memory import capacity_bytes
from clrft.memory.model_sizes import ModelSizes, known_sizes, model_sizes
from clrft.memory.phases import ALONE, Footprint, Longest, Phases, Sharing, gib
from methods import build_method
from methods.lazy import torch
from methods.model.config import choose_device
from methods.model.numerics import keeps_all, looking_at_weights
from methods.settings import AUTO, KAHAN, PLAIN, WIDE
from methods.training.budget import rows_per_update

LEAST_GROUP = 2  # completions of a prompt that can be compared
LEAST_SAVING = 0.01  # of what is needed; less is not worth a setting
FEWEST_PIXELS = 4  # an image is made smaller by this much at most


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


def estimate(config: RunConfig, longest: Longest, device: torch.device, sharing: Sharing = ALONE) -> Estimate:
    """What a process of a run needs of its device, by the sizes of its model and its longest prompts."""
    phases = Phases(config, longest, device, sharing)
    both = {} if phases.method.family == "frozen" else {"training": phases.training()}
    both["testing"] = phases.testing()
    return Estimate({name: max(each.values(), key=lambda phase: phase.total) for name, each in both.items()})


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
    config = decided(config, lambda one: estimate(one, longest, device).peak.total, capacity_bytes(device))
    return estimate(config, longest, device), device


class Change(NamedTuple):
    """A setting of a run, changed."""

    setting: str  # as on the command line
    word: str  # with its value
    config: RunConfig  # the settings with it
    longest: Longest  # of the prompts with it
    note: str = ""  # what else it does


def memory_hints(
    config: RunConfig,
    longest: Longest,
    activity: str,
    available: int,
    estimated: Callable[[RunConfig, Longest], Estimate],
) -> list[str]:
    """What to set so that training or testing needs less memory, the largest saving first.

    Of a setting with several values the first that is enough alone, or the one that saves most. ``estimated`` tells
    what a run of some settings needs with prompts at their longest; nothing for settings that are not possible.
    """
    before = estimated(config, longest)[activity].total
    best: dict[str, tuple[int, str]] = {}
    for setting, word, then, prompts, note in changes(config, longest):
        found, known = estimated(then, prompts), best.get(setting, (0, ""))[0]
        saved = before - found[activity].total if found else 0
        if saved <= max(known, LEAST_SAVING * before) or before - known <= available:
            continue
        enough = ", which is enough" if before - saved <= available else ""
        best[setting] = (saved, f"{word} (saves {gib(saved)} GiB{enough}{note})")
    return [words for _, words in sorted(best.values(), key=lambda one: -one[0])]


def changes(config: RunConfig, longest: Longest) -> Iterator[Change]:
    """Settings that may help, each alone, the mildest value first."""
    train, model, evaluate, full = config.train, config.model, config.evaluate, config.model.adapter == "none"
    rows = rows_per_update(build_method(config.method_name, config.method, config.parts), train)
    group = int(getattr(config.method, "group_size", 1))
    groups = [size for size in halves(group, LEAST_GROUP) if rows // group * size % train.accumulation == 0]
    pixels = halves(longest.pixels, max(model.min_pixels or 1, longest.pixels // FEWEST_PIXELS))
    choices: list[tuple[str, str, list[Any], str]] = [
        ("train", "accumulation", [n for n in range(train.accumulation + 1, rows + 1) if rows % n == 0], ""),
        ("train", "optimizer", [KAHAN] if train.optimizer == WIDE and full else [], ""),
        ("model", "adapter", ["lora"] if full else [], "; another training"),
        ("model", "anchor_memory", ["cpu"] if model.anchor_memory == "device" else [], ""),
        ("model", "gradient_checkpointing", [] if model.gradient_checkpointing else [True], "; slower"),
        ("train", "kept_prefixes", [0] if train.kept_prefixes else [], "; slower"),
        ("train", "cuda_graphs", [] if train.cuda_graphs is False else [False], "; slower"),
        ("evaluate", "batch_size", halves(evaluate.batch_size, 1), ""),
        ("evaluate", "drift_prompts", halves(evaluate.drift_prompts, 1), ""),
        ("train", "max_completion_tokens", halves(train.max_completion_tokens, longest.answer), ""),
        ("model", "max_pixels", pixels, ""),
        ("method", "group_size", groups, "; another training"),
    ]
    for section, name, values, note in choices:
        for value in values:
            prompts = longest
            if name == "max_pixels":  # smaller images: fewer patches, and fewer tokens of a prompt
                patches = longest.patches * value // longest.pixels
                gone = (longest.patches - patches) // known_sizes(model).shape.merge ** 2
                prompts = replace(longest, patches=patches, pixels=value, tokens=longest.tokens - gone)
            yield Change(f"{section}.{name}", *with_value(config, section, name, value), prompts, note)


def halves(number: int, least: int) -> list[int]:
    """A half of a number, a quarter and so on, not below the least."""
    return [number >> step for step in range(1, number.bit_length()) if number >> step >= max(least, 1)]


def with_value(config: RunConfig, section: str, name: str, value: Any) -> tuple[str, RunConfig]:
    """A setting with another value as on the command line, and a run's settings with it."""
    word = str(value).lower() if isinstance(value, bool) else value
    return f"{section}.{name}={word}", replace(config, **{section: replace(getattr(config, section), **{name: value})})
