"""A run in progress: what was asked, what it works on, and where it stands."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from clrft.config.run_config import RunConfig
from clrft.runs.fork_history import Origin
from clrft.utils.progress import Reporter
from methods.base import Method
from methods.model.anchor import Anchors
from methods.model.policy import Policy
from methods.model.snapshots import Snapshot
from task_streams.probes.sets import ProbeSet
from task_streams.scenarios.split import joint_task
from task_streams.types import Task, TaskStream


@dataclass(slots=True)
class Run:
    """A run in progress.

    Attributes:
        config: what was asked.
        stream: what is learned.
        policy: the model, as the last stage left it.
        method: how it learns.
        reporter: shows progress.
        reference: the base, for the KL term.
        anchor: of the task at hand.
        anchors: gives each task its anchor.
        moments: the optimizer's, as the last stage left them.
        data: fingerprints of the stream.
        parent: identity of the last finished stage (``clrft/runner/lineage.py``).
        carry: what crosses a task boundary, as the manifest says.
        origins: runs it was forked from, the oldest first.
        probes: sets of questions outside the stream.
        memory: what it needs of its device's memory (``clrft/runner/memory_check.py``).
    """

    config: RunConfig
    stream: TaskStream
    policy: Policy
    method: Method
    reporter: Reporter
    reference: Snapshot | None = None
    anchors: Anchors | None = None
    anchor: Snapshot | None = None
    moments: dict[str, Tensor] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    parent: str = ""
    carry: dict[str, str] = field(default_factory=dict)
    origins: tuple[Origin, ...] = ()
    probes: tuple[ProbeSet, ...] = ()
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Run folder."""
        return self.config.folder

    @property
    def tasks(self) -> list[Task]:
        """What is learned, stage by stage; a joint method learns the union of all tasks as the last stage."""
        return [joint_task(self.stream)] if self.method.joint else list(self.stream.tasks)

    @property
    def stages(self) -> list[int]:
        """Stages of the run; 0 is the base before any training."""
        return [0, len(self.stream)] if self.method.joint else list(range(len(self.stream) + 1))


def stage_name(state: Run, stage: int) -> str:
    """Name of what a stage learns."""
    if stage == 0:
        return "base"
    return "joint" if state.method.joint else state.stream.tasks[stage - 1].name
