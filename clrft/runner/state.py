"""A run in progress: what was asked, what it works on, and where it stands."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from clrft.config.run_config import RunConfig
from clrft.runs.base_identity import UNKNOWN, Base
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
    """A run in progress."""

    config: RunConfig  # what was asked
    stream: TaskStream  # what is learned
    policy: Policy  # the model, as the last stage left it
    method: Method  # how it learns
    reporter: Reporter  # shows progress
    reference: Snapshot | None = None  # the base, for the KL term
    anchors: Anchors | None = None  # gives each task its anchor
    anchor: Snapshot | None = None  # of the task at hand
    moments: dict[str, Tensor] = field(default_factory=dict)  # the optimizer's, as the last stage left them
    data: dict[str, str] = field(default_factory=dict)  # fingerprints of the stream
    parent: str = ""  # identity of the last finished stage (``clrft/runner/lineage.py``)
    carry: dict[str, str] = field(default_factory=dict)  # what crosses a task boundary, as the manifest says
    origins: tuple[Origin, ...] = ()  # runs it was forked from, the oldest first
    probes: tuple[ProbeSet, ...] = ()  # sets of questions outside the stream
    base: Base = UNKNOWN  # the checkpoint that it began with
    memory: dict[str, Any] = field(default_factory=dict)  # what it needs of its device's (``resource_checks.py``)

    @property
    def folder(self) -> Path:
        """Run folder."""
        return self.config.folder

    @property
    def tasks(self) -> dict[int, Task]:
        """What is learned in each stage from 1 on; a joint method learns the union of all tasks as the last stage."""
        if self.method.joint:
            return {len(self.stream): joint_task(self.stream)}
        return dict(enumerate(self.stream.tasks, start=1))

    @property
    def stages(self) -> list[int]:
        """Stages of the run; 0 is the base before any training."""
        return [0, len(self.stream)] if self.method.joint else list(range(len(self.stream) + 1))
