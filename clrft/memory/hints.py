"""Settings that a run would need less memory with, each with how much less: estimated anew, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from clrft.config.run_config import RunConfig
from clrft.memory.model_sizes import known_sizes
from clrft.memory.phases import Footprint, Longest, gib
from methods import build_method
from methods.settings import KAHAN, WIDE
from methods.training.budget import rows_per_update

LEAST_GROUP = 2  # completions of a prompt that can be compared
LEAST_SAVING = 0.01  # of what is needed; less is not worth a setting
FEWEST_PIXELS = 4  # an image is made smaller by this much at most


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
    estimated: Callable[[RunConfig, Longest], Mapping[str, Footprint]],
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
