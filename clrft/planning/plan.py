"""The plan of a sweep: every cell's work, seconds, disk and memory, and what they add up to."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch

from clrft.config.run_config import RunConfig
from clrft.memory.available_memory import available_bytes
from clrft.memory.checkpoint_shape import checkpoint_of
from clrft.memory.estimate import Estimate, decided, with_optimizer
from clrft.memory.peaks import memory_of
from clrft.memory.sharing import ALONE, Sharing
from clrft.planning.activities import dealt_work
from clrft.planning.assumed import assumed_lengths
from clrft.planning.calibration import Measured, kind_of, measured
from clrft.planning.cell import Cell, Lengths
from clrft.planning.clock import Pace, Seconds, assumed_seconds, makespan, measured_seconds
from clrft.planning.disk import SWEEP, Disk, disk_of
from clrft.planning.hardware import LIKELY, THIS, Hardware
from clrft.planning.operation_counts import Passes, Tally
from clrft.planning.sharding_checks import sharing_problems
from clrft.planning.streams import outline_of
from clrft.planning.unavailable_data import absent
from clrft.sweep.executors import default_jobs, gpus
from methods.model.config import choose_device
from task_streams.errors import UserError

SHARE = 0.95  # of a device's memory that a run can have


@dataclass(frozen=True, slots=True)
class Target:
    """What a plan is for.

    Attributes:
        name: of the hardware.
        title: in words.
        jobs: cells at a time.
        device: kind of device.
        memory: bytes of a device for one cell; None where nothing tells.
        hardware: with its assumed speeds; None for this machine.
        measured: this machine's pace; None for other hardware.
        completion: tokens of a completion, as asked for.
        times: completions are taken so many times as long.
        sharing: the processes of a cell, one for each of its devices.
    """

    name: str
    title: str
    jobs: int
    device: torch.device
    memory: int | None
    hardware: Hardware | None = None
    measured: Measured | None = None
    completion: int | None = None
    times: float = 1.0
    sharing: Sharing = ALONE

    @property
    def closing(self) -> float:
        """Seconds before the first cell and after the last; unknown on other hardware, where they are little."""
        return self.measured.start + self.measured.closing if self.measured is not None else 0.0


@dataclass(frozen=True, slots=True)
class CellPlan:
    """A cell.

    Attributes:
        config: its settings.
        lengths: tokens of its completions.
        tasks: how many it goes through.
        here: its data are on this machine; exact: its prompts were encoded.
        work: by activity.
        seconds: by part; most likely, slow, fast.
        disk: what it leaves.
        memory: what it needs of each of its devices.
        refused: why its processes cannot share it; nothing where they can.
    """

    config: RunConfig
    lengths: Lengths
    tasks: int
    here: bool
    exact: bool
    work: Mapping[str, Tally]
    seconds: tuple[Seconds, Seconds, Seconds]
    disk: Disk
    memory: Estimate
    refused: tuple[str, ...] = ()

    @property
    def total(self) -> Tally:
        """All of its work."""
        return summed(self.work.values())

    def wall(self, place: int = LIKELY) -> float:
        """Seconds from its begin to its end."""
        return sum(self.seconds[place].values())


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep on a hardware."""

    target: Target
    cells: tuple[CellPlan, ...]

    @property
    def total(self) -> Tally:
        """Work of all cells."""
        return summed(cell.total for cell in self.cells)

    def wall(self, place: int = LIKELY) -> float:
        """Seconds from the command to its end."""
        return makespan([cell.wall(place) for cell in self.cells], self.target.jobs) + self.target.closing

    @property
    def kept(self) -> int:
        """Bytes on disk when it has ended."""
        return sum(cell.disk.kept for cell in self.cells) + SWEEP

    @property
    def most(self) -> int:
        """Bytes on disk at most, meanwhile."""
        return self.kept + sum(sorted(cell.disk.meanwhile for cell in self.cells)[-self.target.jobs :])

    @property
    def memory(self) -> int:
        """Bytes of the cell that needs most."""
        return max(cell.memory.peak.total for cell in self.cells)

    @property
    def unfit(self) -> list[CellPlan]:
        """Cells that their device has no memory for."""
        most = self.target.memory
        return [] if most is None else [cell for cell in self.cells if cell.memory.peak.total > most]

    @property
    def refused(self) -> list[CellPlan]:
        """Cells that several processes cannot share."""
        return [cell for cell in self.cells if cell.refused]

    @property
    def device_seconds(self) -> float:
        """Seconds of all devices of all cells together."""
        return sum(cell.wall() for cell in self.cells) * self.target.sharing.processes


def summed(tallies: Iterable[Tally]) -> Tally:
    """Work added up."""
    return reduce(Tally.__add__, tallies, Tally())


def target_of(
    hardware: Hardware, jobs: int | None = None, completion: int | None = None, sharing: Sharing = ALONE
) -> Target:
    """Known hardware: as many cells as it has devices for.

    Raises:
        UserError: it has not devices enough, or nothing is known of how they are linked.
    """
    room = hardware.devices // sharing.processes
    problems = []
    if sharing.processes > 1 and hardware.link is None:
        problems.append(
            f"hardware {hardware.name!r} states no link between devices, so a cell can have one; expected link (bytes "
            "a second each way), and under assumed linked, as in hardware.yaml of the package."
        )
    if not room:
        problems.append(
            f"--devices-per-cell: got {sharing.processes}, but {hardware.name} has {counted(hardware.devices)}; "
            f"expected 1 to {hardware.devices}."
        )
    elif jobs is not None and jobs > room:
        at_a_time = f"{counted(hardware.devices)}, {sharing.processes} for each cell"
        problems.append(f"--jobs: got {jobs}, but {hardware.name} has {at_a_time}; expected 1 to {room}.")
    if problems:
        raise UserError(*problems)
    memory, title = int(SHARE * hardware.memory), f"{hardware.devices} x {hardware.title}"
    return Target(
        name=hardware.name,
        title=f"{title}, {hardware.memory / 1e9:.0f} GB each",
        jobs=jobs or room,
        device=torch.device("cuda"),
        memory=memory,
        hardware=hardware,
        completion=completion,
        sharing=sharing,
    )


def counted(devices: int) -> str:
    """So many devices, in words."""
    return f"{devices} device{'s' if devices > 1 else ''}"


def this_target(cells: Sequence[RunConfig], jobs: int | None) -> Target:
    """This machine, measured now.

    Raises:
        UserError: the data or the model of a cell are not on it.
    """
    missing = dict.fromkeys(f"{cell.stream_label} ({absent(cell.stream)})" for cell in cells if absent(cell.stream))
    missing |= dict.fromkeys(
        f"{cell.model.path} (a checkpoint)" for cell in cells if checkpoint_of(cell.model).processor is None
    )
    if missing:
        raise UserError(
            f"hardware {THIS!r}: nothing can be measured without {', '.join(missing)}; expected them on this machine, "
            "or a known hardware, e.g. --hardware h100x8."
        )
    jobs = jobs or default_jobs(cells, gpus(cells))
    cores = len(os.sched_getaffinity(0))
    device = choose_device(cells[0].model)
    free = available_bytes(device)
    found = measured(cells, jobs, max(1, cores // jobs) if jobs > 1 else 0)
    title = f"this machine, {cores} cores" if device.type == "cpu" else torch.cuda.get_device_name(device)
    memory = free // jobs
    return Target(THIS, title, jobs, device, memory, measured=found)


def plan_of(cells: Sequence[RunConfig], target: Target) -> Plan:
    """The plan of some cells; ``train.optimizer=auto`` is decided for each."""
    known: dict[RunConfig, CellPlan] = {}
    plans = []
    for config in cells:
        one = replace(config, seed=0) if absent(config.stream) else config  # no data, no class order
        if one not in known:
            known[one] = cell_plan(settled(one, target), target)
        plans.append(replace(known[one], config=with_optimizer(config, known[one].config.train.optimizer)))
    return Plan(target, tuple(plans))


def settled(config: RunConfig, target: Target) -> RunConfig:
    """A cell's settings with the optimizer that its device has memory for."""
    outline, checkpoint = outline_of(config), checkpoint_of(config.model)

    def needed(one: RunConfig) -> int:
        return memory_of(one, checkpoint, target.device, outline.longest, target.sharing).peak.total

    return decided(config, needed, target.memory)


def cell_plan(config: RunConfig, target: Target) -> CellPlan:
    """The plan of one cell."""
    outline, checkpoint = outline_of(config), checkpoint_of(config.model)
    sharing = target.sharing
    recorded = config.train.records(target.device.type) and not sharing.split
    passes = Passes.of(config, checkpoint, target.device, recorded, sharing.parts)
    pace = pace_of(config, target)
    lengths = pace.lengths if pace else assumed_lengths(config, outline, target.completion, target.times)
    cell = Cell.of(config, outline, passes, lengths, sharing)
    dealt = {stage: dealt_work(cell, stage) for stage in cell.stages}
    work = {stage: {name: one.all for name, one in tallies.items()} for stage, tallies in dealt.items()}
    own = {stage: {name: one.own for name, one in tallies.items()} for stage, tallies in dealt.items()}
    disk = disk_of(cell, work)
    names = dict.fromkeys(name for tallies in work.values() for name in tallies)
    return CellPlan(
        config=config,
        lengths=lengths,
        tasks=len(outline),
        here=outline.here,
        exact=outline.exact,
        work={name: summed(tallies[name] for tallies in work.values() if name in tallies) for name in names},
        seconds=seconds_of_cell(cell, own, disk, target, pace),
        disk=disk,
        memory=memory_of(config, checkpoint, target.device, outline.longest, sharing),
        refused=tuple(sharing_problems(config, sharing)),
    )


def pace_of(config: RunConfig, target: Target) -> Pace | None:
    """What was measured of cells of its kind."""
    return None if target.measured is None else target.measured.paces[kind_of(config)]


def seconds_of_cell(
    cell: Cell, work: Mapping[int, Mapping[str, Tally]], disk: Disk, target: Target, pace: Pace | None
) -> tuple[Seconds, Seconds, Seconds]:
    """Seconds of a cell, by the work of its busiest process: most likely, slow, fast; what was measured is one."""
    if pace is not None:
        likely = measured_seconds(cell, work, pace)
        return likely, likely, likely
    if target.hardware is None:
        raise RuntimeError("neither a hardware nor a measurement")
    likely, slow, fast = (assumed_seconds(cell, work, disk, speed) for speed in target.hardware.speeds)
    return likely, slow, fast


def longer(target: Target, times: float) -> Target:
    """The same with completions so many times as long."""
    return replace(target, times=times)
