"""From a pilot to a pace: what was measured, for each operation that is counted of the same work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from clrft.config.run_config import RunConfig
from clrft.memory.checkpoint_shape import checkpoint_of
from clrft.planning.activities import stage_work
from clrft.planning.cell import Cell, Lengths
from clrft.planning.clock import Pace
from clrft.planning.operation_counts import Passes
from clrft.planning.streams import outline_of
from clrft.runs.cost_names import EVALUATE, TRAIN, WALL
from methods.model.config import choose_device
from methods.training.budget import rows_per_update

TASKS = 2  # of a stream that a pilot goes through
SPREAD = 1.3  # the longest of a batch's completions to their mean, where only the mean was counted


@dataclass(frozen=True, slots=True)
class Pilot:
    """What was measured of one kind of cell.

    Attributes:
        waited: seconds from the request to the begin of the work: of a new process, its start.
        ready: seconds to the first stage, and behind the last one.
        stages: seconds of every stage.
        steps: seconds between updates, by stage.
        costs: as the stages' records have them.
    """

    waited: float
    ready: float
    stages: Mapping[int, float]
    steps: Mapping[int, Sequence[float]]
    costs: Mapping[int, Mapping[str, Any]]


def pace_of(pilot: RunConfig, config: RunConfig, result: Pilot) -> Pace:
    """A kind's pace: what was measured, for each operation that is counted of the same work.

    Args:
        pilot: settings of what was measured.
        config: settings of the cell.
        result: what was measured.
    """
    cell = pilot_cell(pilot, config)
    cell = replace(cell, lengths=lengths_of(cell, result))
    work = {stage: stage_work(cell, stage) for stage in cell.stages}
    last = cell.stages[-1]
    costs, tallies = result.costs[last], work[last]
    rates = {name: costs[name][WALL] / tally.model_flops for name, tally in tallies.items()}
    fixed = 0.0
    if TRAIN in tallies:
        step = fmean(result.steps[last])
        rates[TRAIN] = step * tallies[TRAIN].updates / tallies[TRAIN].model_flops
        fixed = max(0.0, costs[TRAIN][WALL] - step * tallies[TRAIN].updates)
    beside = result.stages[last] - sum(cost[WALL] for cost in costs.values())
    return Pace(result.ready, fixed, max(0.0, beside), rates, cell.lengths)


def pilot_cell(pilot: RunConfig, config: RunConfig) -> Cell:
    """What is counted of a pilot, with completions of one token."""
    outline = outline_of(config).cut(TASKS, config.evaluate.batch_size)
    checkpoint = checkpoint_of(config.model)
    passes = Passes.of(config, checkpoint, choose_device(config.model), graphs=False, parts=1)
    return Cell.of(pilot, outline, passes, Lengths(1, 1, 1, 1, SPREAD, config.train.max_completion_tokens))


def work_of(pilot: RunConfig, config: RunConfig) -> float:
    """Operations of a pilot, about."""
    cell = pilot_cell(pilot, config)
    return sum(tally.model_flops for stage in cell.stages for tally in stage_work(cell, stage).values())


def lengths_of(cell: Cell, result: Pilot) -> Lengths:
    """Lengths of completions by what was generated; ``cell`` counts items, whatever its lengths are."""
    items = {stage: stage_work(cell, stage)[EVALUATE].items for stage in cell.stages}
    made = {stage: float(cost[EVALUATE]["tokens_generated"]) for stage, cost in result.costs.items()}
    probes = float(cell.config.evaluate.probe)
    probe = made[0] / items[0] if items[0] else 0.0
    tests = []
    for stage in cell.stages[1:]:
        asked = probes if cell.trains or stage == cell.stages[-1] else 0.0
        tests.append((made[stage] - asked * probe) / (items[stage] - asked))
    test = fmean(tests)
    limit = cell.config.train.max_completion_tokens
    return Lengths(rollout_length(cell, result) or test, test, test, probe or test, SPREAD, limit)


def rollout_length(cell: Cell, result: Pilot) -> float:
    """Mean length of the rollouts of the training; 0 where there are none."""
    if cell.method.family != "reinforcement":
        return 0.0
    rows = made = 0.0
    for stage in cell.stages[1:]:
        batches = stage_work(cell, stage)[TRAIN].updates / cell.config.method.updates_per_batch
        rows += batches * rows_per_update(cell.method, cell.config.train)
        made += float(result.costs[stage][TRAIN]["tokens_trained"]) / cell.config.method.updates_per_batch
    return made / rows
