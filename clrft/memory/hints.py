"""Settings that a run would need less memory with, each with how much less: estimated anew, not guessed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from clrft.config.run_config import RunConfig
from clrft.memory.estimate import estimate, gib
from clrft.memory.model_sizes import ModelSizes, known_sizes
from clrft.memory.phases import ALONE, Longest, Sharing
from methods import build_method
from methods.lazy import torch
from methods.settings import KAHAN, WIDE
from methods.training.budget import rows_per_update

LEAST_GROUP = 2  # completions of a prompt that can be compared
LEAST_SAVING = 0.01  # of what is needed; less is not worth a setting
FEWEST_PIXELS = 4  # an image is made smaller by this much at most


@dataclass(frozen=True, slots=True)
class Change:
    """A setting of a run, changed."""

    setting: str  # as on the command line
    word: str  # with its value
    config: RunConfig  # the settings with it
    longest: Longest  # of the prompts with it
    note: str = ""  # what else it does


def memory_hints(
    config: RunConfig,
    sizes: ModelSizes,
    device: torch.device,
    longest: Longest,
    activity: str,
    available: int,
    sharing: Sharing = ALONE,
    allowed: Callable[[RunConfig], bool] = lambda _: True,
) -> list[str]:
    """What to set so that training or testing needs less, the largest saving first.

    Of a setting with several values the first that is enough alone, or the one that saves most.
    """

    def needed(settings: RunConfig, prompts: Longest) -> int:
        if not allowed(settings):
            return sys.maxsize
        own = sizes if settings.model.adapter == config.model.adapter else known_sizes(settings.model)
        return estimate(settings, own, device, prompts, sharing).peaks()[activity].total

    before = needed(config, longest)
    best: dict[str, tuple[int, str]] = {}
    for change in changes(config, longest, sizes):
        then = needed(change.config, change.longest)
        saved, known = before - then, best.get(change.setting, (0, ""))[0]
        if saved <= max(known, LEAST_SAVING * before) or before - known <= available:
            continue
        enough = ", which is enough" if then <= available else ""
        best[change.setting] = (saved, f"{change.word} (saves {gib(saved)} GiB{enough}{change.note})")
    return [words for _, words in sorted(best.values(), key=lambda one: -one[0])]


def changes(config: RunConfig, longest: Longest, sizes: ModelSizes) -> Iterator[Change]:
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
                gone = (longest.patches - patches) // sizes.shape.merge**2
                prompts = replace(longest, patches=patches, pixels=value, tokens=longest.tokens - gone)
            setting = f"{section}.{name}"
            yield Change(setting, word(setting, value), with_value(config, section, name, value), prompts, note)


def word(setting: str, value: Any) -> str:
    """A setting with a value as on the command line."""
    return f"{setting}={str(value).lower() if isinstance(value, bool) else value}"


def halves(number: int, least: int) -> list[int]:
    """A half of a number, a quarter and so on, not below the least."""
    return [number >> step for step in range(1, number.bit_length()) if number >> step >= max(least, 1)]


def with_value(config: RunConfig, section: str, name: str, value: Any) -> RunConfig:
    """A run's settings with another value."""
    return replace(config, **{section: replace(getattr(config, section), **{name: value})})
