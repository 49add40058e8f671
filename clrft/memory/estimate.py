"""From a run's settings to what it needs of its device's memory; nothing is loaded for it.

Prompts are as long as those that were looked at, or, before any data are read, as long as ``train.max_prompt_tokens``
allows.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from clrft.base_model import default_model_path
from clrft.config.run_config import RunConfig
from clrft.memory.activations import Precision
from clrft.memory.available_memory import capacity_bytes
from clrft.memory.footprint import Footprint, peak_of_testing, peak_of_training
from clrft.memory.sizes import ModelSizes, sizes_of_checkpoint
from clrft.memory.workload import Load, Setup
from methods import build_method
from methods.base import Method
from methods.model.config import choose_attention, choose_device, choose_dtype
from methods.model.numerics import keeps_all, looking_at_weights
from methods.settings import AUTO, KAHAN, PLAIN, WIDE
from methods.training.budget import rows_per_update

ADAPTER = 4  # bytes: PEFT holds the weights of an adapter in float32, whatever the model's type


SHOWN = 4  # parts that are named


@dataclass(frozen=True, slots=True)
class Longest:
    """The longest of what a run's prompts have, each by itself.

    Attributes:
        tokens: of a prompt, those of images and clips included.
        patches: of the images and clips of a prompt.
        images: of a prompt; the steps of a clip's time.
        pixels: of an image as the model sees it.
        answer: tokens of a right answer, end of sequence included.
        examples: that a task learns from; None if that is not known.
        items: that are tested together at most; None if that is not known.
    """

    tokens: int
    patches: int
    images: int
    pixels: int
    answer: int = 1
    examples: int | None = None
    items: int | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Memory of a run: of training a task, None where nothing is trained, and of testing."""

    training: Footprint | None
    testing: Footprint

    def peaks(self) -> dict[str, Footprint]:
        """What there is of both, by name."""
        both = {"training": self.training, "testing": self.testing}
        return {name: one for name, one in both.items() if one is not None}

    @property
    def peak(self) -> Footprint:
        """The one that needs more."""
        return max(self.peaks().values(), key=lambda one: one.total)

    def to_json(self) -> dict[str, Any]:
        """Bytes by phase and part, for the manifest."""
        return {
            name: {"bytes": one.total, "phase": one.phase, "parts": dict(one.parts)}
            for name, one in self.peaks().items()
        }


def estimate(config: RunConfig, sizes: ModelSizes, device: torch.device, longest: Longest) -> Estimate:
    """What a run of these settings needs on a device.

    Args:
        config: its settings.
        sizes: of its model.
        device: where the model is.
        longest: of its prompts.
    """
    method = build_method(config.method_name, config.method, config.parts)
    setup, load = setup_of(config, method, device), load_of(config, method, longest)
    trains = method.family != "frozen"
    return Estimate(peak_of_training(sizes, setup, load) if trains else None, peak_of_testing(sizes, setup, load))


def decided(config: RunConfig, needed: Callable[[RunConfig], int], capacity: int | None) -> RunConfig:
    """The settings with the optimizer that ``train.optimizer=auto`` stands for.

    Weights are held in float32 where the device has the memory, by its size and not by what is free at the moment, so
    that all cells of a sweep decide alike; and where a method looks at them. Else they are compensated. Weights that
    nothing trains stay as the model computes.

    Args:
        config: the settings.
        needed: bytes that a run of some settings needs.
        capacity: bytes that the device has; None if nothing tells.
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
    return replace(config, train=replace(config.train, optimizer=optimizer))


def setup_of(config: RunConfig, method: Method, device: torch.device) -> Setup:
    """How the model is held and trained; ``train.optimizer=auto`` stands for the one that needs most memory."""
    model, on_gpu = config.model, device.type == "cuda"
    compute = choose_dtype(model, device)
    lora = model.adapter == "lora"
    wide = config.train.optimizer in (AUTO, WIDE) and not lora
    weights = torch.float32 if wide else compute
    return Setup(
        precision=Precision(
            weight=weights.itemsize,
            compute=compute.itemsize,
            adapter=ADAPTER if lora else 0,
            rank=model.lora_rank if lora else 0,
            attention=choose_attention(model, device, compute),
        ),
        checkpointing=model.gradient_checkpointing,
        autocast=weights != compute,
        compensated=config.train.optimizer == KAHAN and not lora and compute != torch.float32,
        gpu=on_gpu,
        anchor="anchor" in method.needs,
        # where the anchor is the base, one copy serves both
        reference="reference" in method.needs and not ("anchor" in method.needs and method.anchor_rule.kind == "base"),
        offloaded=on_gpu and model.anchor_memory == "cpu",
        fisher="fisher" in method.needs,
        recorded=config.train.records(device.type),
    )


def load_of(config: RunConfig, method: Method, longest: Longest) -> Load:
    """What goes through the model at a time."""
    train = config.train
    rows = rows_per_update(method, train)
    micro = math.ceil(rows / train.accumulation)
    samples = method.family == "reinforcement"
    shares = train.share_prefix
    return Load(
        rows=rows,
        micro_rows=micro,
        prompts=train.prompts_per_update,
        micro_prompts=most_prompts(micro, config.method.group_size) if samples and shares else micro,
        prompt=longest.tokens,
        completion=train.max_completion_tokens,
        patches=longest.patches,
        images=longest.images,
        samples=samples,
        shared=samples and shares,
        tested=min(config.evaluate.batch_size, longest.items or config.evaluate.batch_size),
        once=samples and shares and train.accumulation == 1 and config.method.updates_per_batch == 1,
        prefixes=train.kept_prefixes * 2**20,
        examples=longest.examples,
    )


def most_prompts(rows: int, group: int) -> int:
    """Most prompts among the rollouts of one of a batch's equal parts, of so many rows; groups are adjacent."""
    into = group - math.gcd(rows, group)  # how far into a group a part may begin
    return math.ceil((into + rows) / group)


def longest_allowed(config: RunConfig, sizes: ModelSizes) -> Longest:
    """The longest prompt that the settings allow: one image of the largest size, or nothing but image."""
    tokens, merged = config.train.max_prompt_tokens, sizes.tower.merge**2
    side = math.isqrt(sizes.tower.values // 6)  # three colours, two steps of time
    patches = tokens * merged
    if config.model.max_pixels is not None:
        patches = min(patches, config.model.max_pixels // side**2)
    return Longest(tokens, patches, 1, patches * side**2)


def allowed_estimate(config: RunConfig) -> tuple[Estimate, torch.device] | None:
    """The estimate by the settings and the checkpoint's config alone, and its device; None for an unknown family.

    Raises:
        OSError: the checkpoint's config is not on this machine.
        UserError: the settings ask for what this machine does not have.
    """
    device = choose_device(config.model)
    sizes = sizes_of_checkpoint(config.model.path or str(default_model_path()), config.model.lora_targets)
    if sizes is None:
        return None
    longest = longest_allowed(config, sizes)
    config = decided(config, lambda one: estimate(one, sizes, device, longest).peak.total, capacity_bytes(device))
    return estimate(config, sizes, device, longest), device


def gib(count: int) -> str:
    """Bytes in GiB, to a digit after the point, or three digits where that would be 0."""
    size = count / 2**30
    return f"{size:.1f}" if size >= 0.1 else f"{size:.3f}"


def line(peak: Footprint, available: int | None) -> str:
    """What a run needs, on one line."""
    there = "" if available is None else f" of {gib(available)} GiB"
    return f"about {gib(peak.total)} GiB{there} ({peak.phase}): {parts_told(peak)}"


def recorded(memory: Mapping[str, Any]) -> Footprint:
    """The peak that a manifest tells."""
    both = [memory[name] for name in ("training", "testing") if name in memory]
    most = max(both, key=lambda one: int(one["bytes"]))
    return Footprint(most["phase"], most["parts"])


def parts_told(peak: Footprint) -> str:
    """The largest parts, GiB each."""
    return ", ".join(f"{name} {gib(size)}" for name, size in peak.largest()[:SHOWN])
