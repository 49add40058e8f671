"""From a run's settings to what each of its processes needs of its device's memory; nothing is loaded for it.

Prompts are as long as those that were looked at, or, before any data are read, as long as ``train.max_prompt_tokens``
allows. Of several processes each has activations of its share of the rows. Where weights are split it keeps its part of
weights, gradients, moments, anchor and reference, and beside them what is gathered: all of the policy while rollouts
are sampled, all models in tests and drift, and elsewhere what is outside of the layers, the layer that is computed and
the next one. Drift counts as a peak of its own there: every process measures all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from clrft.config.run_config import RunConfig
from clrft.memory.available_memory import capacity_bytes
from clrft.memory.model_sizes import ModelSizes, model_sizes
from clrft.memory.phases import Footprint, Load, Phases, Setup
from clrft.memory.sharing import ALONE, Sharing
from methods import build_method
from methods.base import Method
from methods.lazy import torch
from methods.model.config import choose_attention, choose_device, choose_dtype
from methods.model.numerics import keeps_all, looking_at_weights
from methods.settings import AUTO, KAHAN, PLAIN, WIDE
from methods.training.budget import rows_per_update

ADAPTER = 4  # bytes: PEFT holds the weights of an adapter in float32, whatever the model's type
SHOWN = 4  # parts that are named


@dataclass(frozen=True, slots=True)
class Longest:
    """The longest of what a run's prompts have, each by itself."""

    tokens: int  # of a prompt, those of images and clips included
    patches: int  # of the images and clips of a prompt
    images: int  # of a prompt; the steps of a clip's time
    pixels: int  # of an image as the model sees it
    answer: int = 1  # tokens of a right answer, end of sequence included
    examples: int | None = None  # that a task learns from; None if that is not known
    items: int | None = None  # that are tested together at most; None if that is not known


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


def estimate(
    config: RunConfig, sizes: ModelSizes, device: torch.device, longest: Longest, sharing: Sharing = ALONE
) -> Estimate:
    """What a process of a run of these settings needs of its device.

    Args:
        config: its settings.
        sizes: of its model.
        device: of every process.
        longest: of its prompts.
        sharing: its processes.
    """
    method = build_method(config.method_name, config.method, config.parts)
    setup, trains = setup_of(config, device, sharing), method.family != "frozen"
    phases = Phases(sizes, setup, load_of(config, method, longest, sharing))
    testing = phases.testing()
    if sharing.processes > 1 and trains and config.evaluate.drift_prompts:
        from methods.drift.items import GROUP_SIZE
        from methods.drift.measure import PROMPTS

        asked = min(PROMPTS, config.evaluate.drift_prompts)
        at_hand = setup.reference and (method.joint or (setup.anchor and method.anchor_rule.kind == "previous"))
        drift = phases.drift(asked, asked * GROUP_SIZE, at_hand)
        testing = max(testing, drift, key=lambda phase: phase.total)
    return Estimate(phases.training() if trains else None, testing)


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
    return replace(config, train=replace(config.train, optimizer=optimizer))  # type: ignore[arg-type]


def setup_of(config: RunConfig, device: torch.device, sharing: Sharing = ALONE) -> Setup:
    """How the model is held and trained; ``train.optimizer=auto`` stands for the one that needs most memory."""
    method = build_method(config.method_name, config.method, config.parts)
    model, on_gpu, lora = config.model, device.type == "cuda", config.model.adapter == "lora"
    compute = choose_dtype(model, device)
    weights = torch.float32 if config.train.optimizer in (AUTO, WIDE) and not lora else compute
    anchor = "anchor" in method.needs
    return Setup(
        weight=weights.itemsize,
        compute=compute.itemsize,
        adapter=ADAPTER if lora else 0,
        rank=model.lora_rank if lora else 0,
        attention=choose_attention(model, device, compute),
        checkpointing=model.gradient_checkpointing,
        compensated=config.train.optimizer == KAHAN and not lora and compute != torch.float32,
        gpu=on_gpu,
        anchor=anchor,
        # where the anchor is the base, one copy serves both
        reference="reference" in method.needs and not (anchor and method.anchor_rule.kind == "base"),
        offloaded=on_gpu and model.anchor_memory == "cpu",
        fisher="fisher" in method.needs,
        recorded=config.train.records(device.type) and not sharing.split,  # split weights move
        parts=sharing.parts,
    )


def load_of(config: RunConfig, method: Method, longest: Longest, sharing: Sharing = ALONE) -> Load:
    """What goes through the model at a time, of several processes that which has most."""
    train, group = config.train, int(getattr(config.method, "group_size", 1))
    samples = method.family == "reinforcement"
    shared = samples and train.share_prefix
    once = shared and train.accumulation == 1 and config.method.updates_per_batch == 1
    rows, prompts = rows_per_update(method, train), train.prompts_per_update
    together = math.ceil(rows / train.accumulation)  # rows of a micro-batch of all processes
    micro = math.ceil(together / sharing.processes)
    micro_prompts = most_prompts(micro, group) if shared else micro
    if sharing.processes > 1 and samples:
        own = max(sharing.drawn(rows, group))
        learned = own if once else max(sharing.learned(together, train.accumulation, group))
        micro = own.rows if together == rows else micro
        rows, prompts, micro_prompts = own.rows, int(own.prompts), math.ceil(learned.prompts)
    elif sharing.processes > 1:
        rows = micro * train.accumulation
    return Load(
        rows=rows,
        micro_rows=micro,
        prompts=prompts,
        micro_prompts=micro_prompts,
        prompt=longest.tokens,
        completion=train.max_completion_tokens,
        patches=longest.patches,
        images=longest.images,
        samples=samples,
        shared=shared,
        tested=min(config.evaluate.batch_size, longest.items or config.evaluate.batch_size),
        once=once and not sharing.split,
        prefixes=0 if sharing.split else train.kept_prefixes * 2**20,
        examples=longest.examples,
    )


def most_prompts(rows: int, group: int) -> int:
    """Most prompts among the rollouts of one of a batch's equal parts, of so many rows; groups are adjacent."""
    into = group - math.gcd(rows, group)  # how far into a group a part may begin
    return math.ceil((into + rows) / group)


def longest_allowed(config: RunConfig, sizes: ModelSizes) -> Longest:
    """The longest prompt that the settings allow: one image of the largest size, or nothing but image."""
    tokens, area = config.train.max_prompt_tokens, sizes.tower.patch**2
    patches = tokens * sizes.tower.merge**2
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
    largest = sorted(peak.parts.items(), key=lambda part: -part[1])[:SHOWN]
    return ", ".join(f"{name} {gib(size)}" for name, size in largest)
