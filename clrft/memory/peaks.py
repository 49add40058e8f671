"""Memory of one process of a cell on its device: of one that shares the work with others, or that has all of it.

A process that is alone needs what the run's own estimate says (``clrft/memory/estimate.py``). Of several each has
activations of its share of the rows. Where weights are split it keeps its part of weights, gradients, moments, anchor
and reference, and beside them what is put together: all of the policy while rollouts are sampled, all models in tests
and drift, and elsewhere what is outside of the layers, the layer that is computed and the next one. Drift counts as a
peak of its own there: every process measures all of it, whatever its share of the rest.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from clrft.config.run_config import RunConfig
from clrft.memory.activations import EXACT, Pass, text_layer
from clrft.memory.checkpoint_shape import Checkpoint
from clrft.memory.estimate import Estimate, Longest, estimate, load_of, setup_of
from clrft.memory.footprint import (
    SAMPLING,
    SCORING,
    TABLES,
    UPDATE,
    Footprint,
    autocast_copies,
    cache,
    frozen_copy,
    optimizer_step,
    peak_of_testing,
    sampling,
    scoring,
    update,
)
from clrft.memory.sharing import Sharing
from clrft.memory.workload import Load, Setup
from methods import build_method
from methods.base import Method
from methods.drift.items import GROUP_SIZE
from methods.drift.measure import PROMPTS
from methods.training.budget import rows_per_update

DRIFT = "drift"
GATHERED = "gathered weights"
AT_ONCE = 2  # layers: the one that is computed, and the next one


def memory_of(
    config: RunConfig, checkpoint: Checkpoint, device: torch.device, longest: Longest, sharing: Sharing
) -> Estimate:
    """What a process of a cell needs of its device.

    Args:
        config: the cell's settings.
        checkpoint: its model.
        device: of every process.
        longest: of its prompts.
        sharing: its processes.
    """
    if sharing.processes == 1:
        return estimate(config, checkpoint.sizes, device, longest)
    method = build_method(config.method_name, config.method, config.parts)
    setup = setup_of(config, method, device)
    setup = replace(setup, recorded=setup.recorded and not sharing.split, split=sharing.split)  # split weights move
    load = shared_load(config, method, load_of(config, method, longest), sharing)
    held = replace(checkpoint.sizes, parameters=math.ceil(checkpoint.sizes.parameters / sharing.parts))
    phases = [update(held, setup, load), optimizer_step(held, setup, load)]
    if load.samples:
        phases += [sampling(held, setup, load), scoring(held, setup, load)]
    testing = peak_of_testing(held, setup, load)
    trains = method.family != "frozen"
    tests = [testing]
    if trains and config.evaluate.drift_prompts:
        tests.append(drift(config, method, checkpoint, setup, load, testing))
    if sharing.split:
        phases = [with_part(one, GATHERED, gathered(one.phase, checkpoint, setup)) for one in phases]
        together = models(setup) * whole(checkpoint, setup) + autocast_copies(checkpoint.sizes, setup)
        tests = [with_part(one, GATHERED, together) for one in tests]
    return Estimate(largest(phases) if trains else None, largest(tests))


def shared_load(config: RunConfig, method: Method, load: Load, sharing: Sharing) -> Load:
    """What goes through the model of the process that has most."""
    if not load.samples:
        micro = math.ceil(load.micro_rows / sharing.processes)
        return replace(load, rows=micro * config.train.accumulation, micro_rows=micro, micro_prompts=micro)
    group = config.method.group_size
    own = max(sharing.drawn(rows_per_update(method, config.train), group))
    learned = own if load.once else max(sharing.learned(load.micro_rows, config.train.accumulation, group))
    micro = own.rows if load.micro_rows == load.rows else math.ceil(load.micro_rows / sharing.processes)
    return replace(
        load,
        rows=own.rows,
        micro_rows=micro,
        prompts=int(own.prompts),
        micro_prompts=math.ceil(learned.prompts),
        once=load.once and not sharing.split,
        prefixes=0 if sharing.split else load.prefixes,
    )


def drift(
    config: RunConfig, method: Method, checkpoint: Checkpoint, setup: Setup, load: Load, testing: Footprint
) -> Footprint:
    """The measure of drift: rollouts of some prompts by two policies, each read by both.

    A policy that is neither anchor nor reference is loaded beside them, whole.
    """
    sizes, asked = checkpoint.sizes, min(PROMPTS, config.evaluate.drift_prompts)
    rows = asked * GROUP_SIZE
    reading = text_layer(sizes.text, setup.precision, Pass(rows, load.completion, load.length))
    at_hand = setup.reference and (method.joint or (setup.anchor and method.anchor_rule.kind == "previous"))
    parts = dict(testing.parts)
    prefixes = 2 * cache(sizes, setup, asked, load.prompt)
    parts["cache"] = cache(sizes, setup, rows, load.length) + prefixes
    parts["activations"] = max(parts.get("activations", 0), reading)
    parts["logits"] = TABLES * EXACT * rows * sizes.text.vocabulary
    if not setup.precision.rank and (setup.offloaded or not at_hand):
        parts["another policy"] = frozen_copy(sizes, setup)
    return Footprint(DRIFT, parts)


def gathered(phase: str, checkpoint: Checkpoint, setup: Setup) -> int:
    """Bytes of weights that are put together in a phase of training, and of their gradients before these are summed."""
    width, language = setup.precision.weight, checkpoint.shape.language.weights
    layers = checkpoint.outer + AT_ONCE * language // checkpoint.sizes.text.layers
    needed = {SAMPLING: whole(checkpoint, setup), SCORING: layers * width, UPDATE: 2 * layers * width}
    return needed[phase] + autocast_copies(checkpoint.sizes, setup) if phase in needed else 0


def whole(checkpoint: Checkpoint, setup: Setup) -> int:
    """Bytes of all weights."""
    return checkpoint.sizes.parameters * setup.precision.weight


def models(setup: Setup) -> int:
    """The policy and its frozen copies."""
    return 1 + setup.anchor + setup.reference


def with_part(footprint: Footprint, name: str, size: int) -> Footprint:
    """A footprint with one part more."""
    return Footprint(footprint.phase, {**footprint.parts, **({name: size} if size else {})})


def largest(phases: Sequence[Footprint]) -> Footprint:
    """The phase that needs most."""
    return max(phases, key=lambda phase: phase.total)
