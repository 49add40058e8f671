"""Settings that a run would need less memory with, each with how much less: estimated anew, not guessed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from clrft.config.run_config import RunConfig
from clrft.memory.estimate import Longest, estimate, gib
from clrft.memory.sizes import ModelSizes
from methods import build_method
from methods.settings import KAHAN, WIDE
from methods.training.budget import rows_per_update

LEAST_GROUP = 2  # completions of a prompt that can be compared
LEAST_SAVING = 0.01  # of what is needed; less is not worth a setting
FEWEST_PIXELS = 4  # an image is made smaller by this much at most


@dataclass(frozen=True, slots=True)
class Change:
    """A setting of a run, changed.

    Attributes:
        word: as on the command line.
        config: the settings with it.
        longest: of the prompts with it.
        note: what else it does; empty if nothing.
    """

    word: str
    config: RunConfig
    longest: Longest
    note: str = ""


def remedies(
    config: RunConfig, sizes: ModelSizes, device: torch.device, longest: Longest, activity: str, available: int
) -> list[str]:
    """What to set so that training or testing needs less, the largest saving first."""

    def needed(settings: RunConfig, prompts: Longest) -> int:
        return estimate(settings, sizes, device, prompts).peaks()[activity].total

    return less_by(config, sizes, longest, available, needed)


def less_by(
    config: RunConfig,
    sizes: ModelSizes,
    longest: Longest,
    available: int,
    needed: Callable[[RunConfig, Longest], int],
) -> list[str]:
    """As ``remedies``, by what ``needed`` tells of settings and prompts: bytes.

    Of a setting with several values the first that is enough alone, or the one that saves most.
    """
    before = needed(config, longest)
    told: dict[str, tuple[int, str]] = {}
    for change in changes(config, longest, sizes):
        then = needed(change.config, change.longest)
        setting, saved = change.word.partition("=")[0], before - then
        known = told.get(setting, (0, ""))[0]
        if saved <= max(known, LEAST_SAVING * before) or before - known <= available:
            continue
        enough = ", which is enough" if then <= available else ""
        told[setting] = (saved, f"{change.word} (saves {gib(saved)} GiB{enough}{change.note})")
    return [words for _, words in sorted(told.values(), key=lambda one: -one[0])]


def changes(config: RunConfig, longest: Longest, sizes: ModelSizes) -> Iterator[Change]:
    """Settings that may help, each alone, the mildest value first."""
    train, model, tested = config.train, config.model, config.evaluate.batch_size
    for parts in divisors(rows_of(config), above=train.accumulation):
        yield Change(f"train.accumulation={parts}", _with(config, "train", accumulation=parts), longest)
    if train.optimizer == WIDE and model.adapter == "none":
        yield Change(f"train.optimizer={KAHAN}", _with(config, "train", optimizer=KAHAN), longest)
    if model.adapter == "none":
        yield Change("model.adapter=lora", _with(config, "model", adapter="lora"), longest, "; another training")
    if model.anchor_memory == "device":
        yield Change("model.anchor_memory=cpu", _with(config, "model", anchor_memory="cpu"), longest)
    if not model.gradient_checkpointing:
        again = _with(config, "model", gradient_checkpointing=True)
        yield Change("model.gradient_checkpointing=true", again, longest, "; slower")
    if train.kept_prefixes:
        yield Change("train.kept_prefixes=0", _with(config, "train", kept_prefixes=0), longest, "; slower")
    if train.cuda_graphs is not False:
        yield Change("train.cuda_graphs=false", _with(config, "train", cuda_graphs=False), longest, "; slower")
    for rows in halves(tested, 1):
        yield Change(f"evaluate.batch_size={rows}", _with(config, "evaluate", batch_size=rows), longest)
    for prompts in halves(config.evaluate.drift_prompts, 1):
        yield Change(f"evaluate.drift_prompts={prompts}", _with(config, "evaluate", drift_prompts=prompts), longest)
    for tokens in halves(train.max_completion_tokens, longest.answer):
        word = f"train.max_completion_tokens={tokens}"
        yield Change(word, _with(config, "train", max_completion_tokens=tokens), longest)
    yield from fewer_pixels(config, longest, sizes)
    for group in halves(int(getattr(config.method, "group_size", 1)), LEAST_GROUP):
        if rows_of(smaller := _with(config, "method", group_size=group)) % train.accumulation == 0:
            yield Change(f"method.group_size={group}", smaller, longest, "; another training")


def fewer_pixels(config: RunConfig, longest: Longest, sizes: ModelSizes) -> Iterator[Change]:
    """Smaller images: fewer patches, and fewer tokens of a prompt."""
    for pixels in halves(longest.pixels, max(config.model.min_pixels or 1, longest.pixels // FEWEST_PIXELS)):
        patches = longest.patches * pixels // longest.pixels
        gone = (longest.patches - patches) // sizes.tower.merge**2
        shorter = replace(longest, patches=patches, pixels=pixels, tokens=longest.tokens - gone)
        if patches:
            yield Change(f"model.max_pixels={pixels}", _with(config, "model", max_pixels=pixels), shorter)


def rows_of(config: RunConfig) -> int:
    """Completions of an update."""
    method = build_method(config.method_name, config.method, config.parts)
    return rows_per_update(method, config.train)


def divisors(number: int, above: int) -> list[int]:
    """Whole numbers that divide another, larger than a given one."""
    return [one for one in range(above + 1, number + 1) if number % one == 0]


def halves(number: int, least: int) -> list[int]:
    """A half of a number, a quarter and so on, not below the least."""
    steps = [number >> step for step in range(1, number.bit_length())]
    return [one for one in steps if one >= max(least, 1)]


def _with(config: RunConfig, section: str, **values: Any) -> RunConfig:
    return replace(config, **{section: replace(getattr(config, section), **values)})
