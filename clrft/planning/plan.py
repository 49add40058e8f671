"""The plan of a sweep: every cell's work, seconds, disk and memory, and what they add up to."""

import heapq
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from clrft.base_model import default_model_path
from clrft.config.run_config import RunConfig
from clrft.memory.available_memory import available_bytes
from clrft.memory.estimate import Estimate, decided, estimate, with_optimizer
from clrft.memory.model_sizes import known_sizes
from clrft.memory.phases import ALONE, EXACT, Longest, Sharing
from clrft.planning.calibration import Measured, kind_of, measured
from clrft.planning.hardware import LIKELY, THIS, Hardware, Speed
from clrft.planning.stage_work import Cell, Lengths
from clrft.planning.stream_statistics import StreamStatistics, absent, statistics_of, token_lengths
from clrft.runner.partial_checkpoint import KEPT
from clrft.runner.prepare import split_problems
from clrft.runner.resource_checks import MOMENTS
from clrft.runner.state import Run
from clrft.runs.layout import DRIFT, EVALUATE, TRAIN
from clrft.sweep.executors import default_jobs, gpus
from clrft.utils.progress import Silent
from methods import build_method
from methods.model.config import choose_device
from methods.training.budget import rows_per_update
from task_streams.errors import UserError
from task_streams.types import TaskStream

SHARE = 0.95  # of a device's memory that a run can have
EXCHANGE, BOUNDARY, START = "exchange", "boundary", "start"
PARTS = (TRAIN, EVALUATE, DRIFT, EXCHANGE, BOUNDARY, START)  # of a cell's time
SPREAD = 2.0  # the longest of a batch's completions to their mean, where nothing is measured
THOUGHT = 60  # tokens of a thought before the answer, beside the answer itself
# Bytes on disk beside weights, as the quickstart's files have them.
ANSWER = 150  # bytes of a row of predictions beside its completion
GROUP = 420  # of a row of drift figures
UPDATE = 600  # of a row of steps
POINTS = 6000  # of an update's figures in MLflow's store
STAGE = 5000  # of a stage's other files
CELL = 20000  # of a run's other files, and of its copies in MLflow
TOKEN = 4  # letters
PROCESSOR = 11_500_000  # of Qwen2-VL's tokenizer and templates, where there are none to be looked at
SWEEP = 3_500_000  # tables, pictures and report
BESIDE = ("*.json", "*.jinja", "*.txt")  # files of a processor


@dataclass(frozen=True, slots=True)
class Target:
    """What a plan is for."""

    name: str  # of the hardware
    title: str  # in words
    jobs: int  # cells at a time
    device: torch.device  # kind of device
    memory: int | None  # bytes of a device for one cell; None where nothing tells
    hardware: Hardware | None = None  # with its assumed speeds; None for this machine
    measured: Measured | None = None  # on this machine; None for other hardware
    completion: int | None = None  # tokens of a completion, as asked for
    times: float = 1.0  # completions are taken so many times as long
    sharing: Sharing = ALONE  # the processes of a cell, one for each of its devices


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of a cell."""

    kept: int  # when it has ended
    meanwhile: int  # beside that while it learns: states of the training that is going on
    stage: int  # written at the end of a stage


@dataclass(frozen=True, slots=True)
class CellPlan:
    """A cell."""

    config: RunConfig
    lengths: Lengths  # tokens of its completions
    statistics: StreamStatistics  # of its stream
    work: pd.DataFrame  # by activity, of all of its processes
    seconds: Sequence[Mapping[str, float]]  # by part; most likely, slow, fast
    disk: Disk  # what it leaves
    memory: Estimate  # what it needs of each of its devices
    problems: tuple[str, ...] = ()  # why its processes cannot share it

    def wall(self, place: int = LIKELY) -> float:
        """Seconds from its begin to its end."""
        return sum(self.seconds[place].values())


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep on a hardware."""

    target: Target
    cells: tuple[CellPlan, ...]
    kept: int  # bytes on disk when it has ended
    most: int  # bytes on disk at most, meanwhile
    unfit: list[CellPlan]  # that their device has no memory for
    unshareable: list[CellPlan]  # that several processes cannot share

    def wall(self, place: int = LIKELY) -> float:
        """Seconds from the command to its end; on other hardware without what comes before and after the cells."""
        found = self.target.measured
        beside = found.start + found.closing if found is not None else 0.0
        return makespan([cell.wall(place) for cell in self.cells], self.target.jobs) + beside


def target_of(
    hardware: Hardware, jobs: int | None = None, completion: int | None = None, sharing: Sharing = ALONE
) -> Target:
    """Known hardware: as many cells as it has devices for.

    Raises:
        UserError: it has not devices enough, or nothing is known of how they are linked.
    """
    name, each, room = hardware.name, sharing.processes, hardware.devices // sharing.processes
    devices = f"{hardware.devices} device{'s' if hardware.devices > 1 else ''}"
    problems = []
    if each > 1 and hardware.device.link is None:
        problems.append(
            f"hardware {name!r} states no link between devices, so a cell can have one; expected link (bytes "
            "a second each way), and under assumed linked, as in hardware.yaml of the package."
        )
    if not room:
        problems.append(f"--devices-per-cell: got {each}, but {name} has {devices}; expected 1 to {hardware.devices}.")
    elif jobs is not None and jobs > room:
        problems.append(f"--jobs: got {jobs}, but {name} has {devices}, {each} for each cell; expected 1 to {room}.")
    if problems:
        raise UserError(*problems)
    return Target(
        name=name,
        title=f"{hardware.devices} x {hardware.device.title}, {hardware.device.memory:.0f} GB each",
        jobs=jobs or room,
        device=torch.device("cuda"),
        memory=int(SHARE * hardware.device.memory * 1e9),
        hardware=hardware,
        completion=completion,
        sharing=sharing,
    )


def this_target(cells: Sequence[RunConfig], jobs: int | None) -> Target:
    """This machine, measured now.

    Raises:
        UserError: the data or the model of a cell are not on it.
    """
    missing = dict.fromkeys(f"{cell.stream_label} ({absent(cell.stream)})" for cell in cells if absent(cell.stream))
    missing |= dict.fromkeys(
        f"{cell.model.path} (a checkpoint)" for cell in cells if token_lengths(cell.model).processor is None
    )
    if missing:
        raise UserError(
            f"hardware {THIS!r}: nothing can be measured without {', '.join(missing)}; expected them on this machine, "
            "or a known hardware, e.g. --hardware h100x8."
        )
    jobs = jobs or default_jobs(cells, gpus(cells))
    cores, device = len(os.sched_getaffinity(0)), choose_device(cells[0].model)
    memory = available_bytes(device) // jobs
    found = measured(cells, jobs, max(1, cores // jobs) if jobs > 1 else 0)
    title = f"this machine, {cores} cores" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return Target(THIS, title, jobs, device, memory, measured=found)


def plan_of(configs: Sequence[RunConfig], target: Target) -> Plan:
    """The plan of some cells; ``train.optimizer=auto`` is decided for each."""
    known: dict[RunConfig, CellPlan] = {}
    cells = []
    for config in configs:
        one = replace(config, seed=0) if absent(config.stream) else config  # no data, no class order
        if one not in known:
            chosen = decided(one, lambda settings: memory_of(settings, target).peak.total, target.memory)
            known[one] = cell_plan(chosen, target)
        cells.append(replace(known[one], config=with_optimizer(config, known[one].config.train.optimizer)))
    kept = sum(cell.disk.kept for cell in cells) + SWEEP
    meanwhile = sum(sorted(cell.disk.meanwhile for cell in cells)[-target.jobs :])
    unfit = [cell for cell in cells if target.memory is not None and cell.memory.peak.total > target.memory]
    return Plan(target, tuple(cells), kept, kept + meanwhile, unfit, [cell for cell in cells if cell.problems])


def memory_of(
    config: RunConfig, target: Target, sharing: Sharing | None = None, longest: Longest | None = None
) -> Estimate:
    """What a cell needs of each of its devices; of several processes, or longest prompts, that are given or its own."""
    longest = longest or statistics_of(config).longest
    return estimate(config, longest, target.device, sharing or target.sharing)


def cell_plan(config: RunConfig, target: Target) -> CellPlan:
    """The plan of one cell; its seconds are by the work of its busiest process."""
    statistics, sharing = statistics_of(config), target.sharing
    throughput = None if target.measured is None else target.measured.throughputs[kind_of(config)]
    lengths = assumed_lengths(config, statistics, target) if throughput is None else throughput.lengths
    cell = Cell(config, target.device, lengths, sharing)
    work = cell.work()
    disk = disk_of(cell, work)
    if throughput is not None:  # what was measured is one
        seconds = [{**dict.fromkeys(PARTS, 0.0), **throughput.seconds(work)}] * 3
    elif target.hardware is not None:
        seconds = [assumed_seconds(cell, work, disk, speed) for speed in target.hardware.device.speeds]
    else:
        raise RuntimeError("neither a hardware nor a measurement")
    by_activity = work.groupby(level="activity", sort=False).sum()
    problems, memory = tuple(sharding_problems(config, sharing)), memory_of(config, target)
    return CellPlan(config, lengths, statistics, by_activity, seconds, disk, memory, problems)


def assumed_lengths(config: RunConfig, statistics: StreamStatistics, target: Target) -> Lengths:
    """Lengths of completions by the right answers' length, or as asked for.

    A policy that was trained on targets answers as they do; any other thinks before.
    """
    limit, answer = float(config.train.max_completion_tokens), fmean(task.target for task in statistics.tasks)
    free = min(limit, float(target.completion or answer + (THOUGHT if config.stream.think else 0)) * target.times)
    supervised = build_method(config.method_name, config.method, config.parts).family == "supervised"
    return Lengths(free, min(answer, limit) if supervised else free, SPREAD)


def assumed_seconds(cell: Cell, work: pd.DataFrame, disk: Disk, speed: Speed) -> dict[str, float]:
    """Seconds of a cell, by that of its processes which has most to do.

    The boundary writes what a stage leaves, and reads the policies that drift is measured against. What devices give
    each other takes its own time: that it goes on beside arithmetic is not counted on.
    """
    weights, stages = cell.held.sizes.parameters * cell.held.weight, work.index.get_level_values("activity")
    written = (stages == TRAIN).sum() * disk.stage + (stages == DRIFT).sum() * 2 * weights
    return {
        **dict.fromkeys(PARTS, 0.0),
        **seconds_of(work, speed).groupby(level="activity").sum(),
        EXCHANGE: work.exchanged.sum() / speed.link,
        BOUNDARY: written / speed.disk,
        START: speed.start + weights / speed.disk,
    }


def seconds_of(work: pd.DataFrame, speed: Speed) -> pd.Series:
    """Seconds of each row of work on the device that has most of it, but for what it gets from others.

    Passes take as long as their operations, or as their launches where these take longer. Writing tokens takes as long
    as its operations, its reading of weights and cache, or its launches.
    """
    passes = np.maximum((work.passes + work.again) / speed.flops, work.launched * speed.launch)
    steps = np.maximum(work.decoding / speed.flops, work.moved / speed.bandwidth)
    return (passes + np.maximum(steps, work.stepped * speed.launch)) * work.share


def disk_of(cell: Cell, work: pd.DataFrame) -> Disk:
    """What a cell leaves, by its work; weights as ``clrft/runner/resource_checks.py`` counts them from tensors."""
    config, method, held = cell.config, cell.method, cell.held
    numbers, trained = held.sizes.trained, held.trained * held.parts
    compensation = held.compensated * held.parts
    moments = MOMENTS * trained + compensation
    folder = Path(config.model.path) if config.model.path else default_model_path()
    beside = sum(file.stat().st_size for pattern in BESIDE for file in folder.glob(pattern))  # none if it is not here
    saved = trained if held.lora else trained + (beside if folder.is_dir() else PROCESSOR)
    # Of a stage: weights, moments that are carried, what a method keeps beside them.
    stage = saved + (moments if config.train.carry_optimizer else compensation)
    stage += EXACT * numbers * ("fisher" in method.needs)
    stage += trained * ("l2_init" in {config.method_name, *(name for name, _ in config.parts)})
    learned, last = len(cell.stages) - 1 if cell.trains else 0, config.run.keep_weights == "last"
    anchors = max(0, learned - 1) if held.anchor and method.anchor_rule.kind in ("average", "first") else 0
    stages = min(learned, 1) * stage if last else learned * stage + anchors * saved
    # Predictions, steps and figures, in the run's folder and in MLflow's store. An image that several tasks are tested
    # on is answered once, and its answer kept for each.
    copies, points, tasks = 2 if config.run.mlflow else 1, POINTS if config.run.mlflow else 0, cell.statistics.tasks
    every = config.evaluate.every
    tested = [stage for stage in range(1, len(tasks) + 1) if stage % every == 0 or stage == len(tasks)]
    stages_of = [
        1 if method.joint else len({place + 1, *(i for i in tested if i > place)}) for place in range(len(tasks))
    ]
    answers = sum((task.test - task.new) * times for task, times in zip(tasks, stages_of, strict=True))
    answers += work.test_items.sum()
    rows = answers * (ANSWER + TOKEN * cell.lengths.test) * copies + len(cell.stages) * STAGE
    rows += work.updates.sum() * (UPDATE + points)
    rows += config.evaluate.drift_prompts * GROUP * (work.index.get_level_values("activity") == DRIFT).sum()
    states = (KEPT + 1) * (trained + moments) if config.run.checkpoint_every and learned else 0
    both = stage if last and learned > 1 else 0  # the one before goes after this one came
    return Disk(round(stages + rows + CELL), states + both, stage if learned else 0)


def makespan(seconds: Sequence[float], jobs: int) -> float:
    """When the last cell ends, each given in turn to the worker that is free first."""
    free = [0.0] * max(1, jobs)
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def sharding_problems(config: RunConfig, sharing: Sharing) -> list[str]:
    """Sentences about settings with which several processes cannot share a run, by the checks that such a run makes."""
    if sharing.processes == 1:
        return []
    method = build_method(config.method_name, config.method, config.parts)
    problems = []
    if method.family == "reinforcement":
        train, rows = config.train, rows_per_update(method, config.train)
        if not train.share_prefix:
            problems.append("train.share_prefix: got false, expected true: else processes cannot share rollouts.")
        if train.rollouts != "own":
            problems.append(f"train.rollouts: got {train.rollouts!r}, expected own: vLLM's are not dealt out.")
        if rows // train.accumulation < sharing.processes:
            problems.append(
                f"train.prompts_per_update: an update's {rows} rollouts in {train.accumulation} parts are fewer than "
                f"{sharing.processes} for a part; expected at least one for each of the {sharing.processes} processes."
            )
    if sharing.split:
        model = SimpleNamespace(config=SimpleNamespace(model_type=known_sizes(config.model).family))
        policy: Any = SimpleNamespace(has_adapter=config.model.adapter == "lora", model=model)
        problems += split_problems(Run(config, TaskStream("none", "cil", 0, ()), policy, method, Silent()))
    return problems
