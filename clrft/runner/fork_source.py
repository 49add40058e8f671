"""What is forked: a finished task of a run, told by its folder and a number, and checked as far as files tell."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from clrft.config.records import LIST, MANIFEST, MANIFEST_OTHERS, read_record, read_stage
from clrft.config.retired import CONFIG_FILE, in_todays_words
from clrft.config.run_config import Values, with_defaults
from clrft.runner.checkpoint import SCHEMA, finished_stage
from clrft.runner.lineage import identity_of
from clrft.runs.fork_history import Origin, origins_of
from clrft.runs.layout import METRICS_FILE, STATE_FILE, WEIGHTS_FOLDER, stage_folder
from clrft.runs.manifest import comparable
from clrft.utils.files import digest
from clrft.utils.plain import read_yaml, section_of
from task_streams.errors import UserError

FORM = "expected RUN@taskK, e.g. runs/single/digits_cil-sft-1993@task3"


@dataclass(frozen=True, slots=True)
class Source:
    """A finished stage of a run, to be gone on from in another way.

    Attributes:
        folder: the run's folder.
        stage: which stage.
        config: the run's settings, in the words of this version.
        manifest: the run's manifest.
        digest: of the settings as they were written.
        origins: the runs that it was forked from itself.
    """

    folder: Path
    stage: int
    config: Values
    manifest: Mapping[str, Any]
    digest: str
    origins: tuple[Origin, ...] = ()

    @property
    def run(self) -> str:
        """Sweep and name of the run's folder."""
        place = self.folder.resolve()
        return f"{place.parent.name}/{place.name}"

    def stage_folder(self, stage: int | None = None) -> Path:
        """Folder of a stage, by default the one that is forked."""
        return stage_folder(self.folder, self.stage if stage is None else stage)

    def lineage(self) -> tuple[Origin, ...]:
        """Whose stages a fork of it has, the oldest first."""
        identity = identity_of(self.folder, self.stage)
        settings = {name: section_of(self.config, name) for name in ("method", "train")}
        own = Origin(
            run=self.run,
            method=self.manifest["method"],
            stage=self.stage,
            identity=identity,
            config=self.digest,
            settings=settings,
        )
        earlier = [one for one in self.origins if one.stage < self.stage]
        last = next((one for one in self.origins if one.stage >= self.stage), own)
        return (*earlier, dataclasses.replace(last, stage=self.stage, identity=identity))


def parsed_point(point: str) -> tuple[Path, int]:
    """A run's folder and the number of a task, from ``RUN@task3`` or ``RUN@3``.

    Raises:
        UserError: it is of another form, or there is no such run.
    """
    if (Path(point) / "config.yaml").is_file():
        raise UserError(f"fork: {point!r} is a run; expected it with a task, {point}@taskK.")
    name, _, task = point.rpartition("@")
    number = re.fullmatch(r"(?:task_?)?(\d{1,6})", task)
    if not name or number is None:
        raise UserError(f"fork: got {point!r}, {FORM}.")
    folder = Path(name)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"fork: {name!r} holds no run, expected a run's folder.{nearest_run(folder)}")
    return folder, int(number[1])


def nearest_run(folder: Path) -> str:
    """A hint at the run beside a folder whose name is nearest to its own; empty if there is none."""
    beside = [path.parent.name for path in folder.parent.glob("*/config.yaml")] if folder.parent.is_dir() else []
    nearest = get_close_matches(folder.name, beside, n=1, cutoff=0.4)
    return f" Did you mean {str(folder.parent / nearest[0])!r}?" if nearest else ""


def read_source(folder: Path, stage: int) -> Source:
    """A run's stage, once it is known that it can be gone on from as far as its files tell.

    Raises:
        UserError: it is no stage between the base and the last, not finished, or has no weights.
    """
    manifest = read_record(folder / "manifest.json", None, {**MANIFEST, "tasks": LIST}, MANIFEST_OTHERS)
    written = read_yaml(folder / CONFIG_FILE)
    config = with_defaults(in_todays_words(written))
    tasks = len(manifest["tasks"])
    check_stage_number(folder, stage, tasks)
    check_trained(folder, manifest["method"], tasks)
    done = finished_stage(folder, range(tasks + 1)) or 0
    if stage > done:
        finished = f"finished: {listed(range(1, done + 1))}" if done else "none is finished"
        raise UserError(f"fork: task {stage} of {folder} is not finished; {finished}.")
    check_has_weights(folder, stage, range(1, min(done, tasks - 1) + 1))
    for each in range(stage + 1):
        read_stage(stage_folder(folder, each) / METRICS_FILE, SCHEMA)  # the fork's matrix will be made of them
    return Source(folder, stage, config, manifest, digest(comparable(written)), origins_of(folder, manifest))


def check_stage_number(folder: Path, stage: int, tasks: int) -> None:
    """Refuse the base, the last task, and what there is not."""
    if 1 <= stage < tasks:
        return
    reasons = {
        0: "task 0 is the base before any training, where clrft run begins",
        tasks: f"task {tasks} is the last, nothing is left to learn",
    }
    reason = reasons.get(stage, f"the stream of {folder} has {tasks} tasks")
    raise UserError(f"fork: got task {stage}, but {reason}; expected a task from 1 to {tasks - 1}.")


def check_trained(folder: Path, method: str, tasks: int) -> None:
    """Refuse a run that did not learn task by task."""
    first, last = stage_folder(folder, 1), stage_folder(folder, tasks)
    if last.is_dir() and not first.is_dir():
        raise UserError(f"fork: {folder} ({method}) learned all tasks at once; it has no state between them.")
    if (first / METRICS_FILE).is_file() and not (first / STATE_FILE).is_file():
        raise UserError(f"fork: {folder} ({method}) trained nothing: each task is the base, where clrft run begins.")


def check_has_weights(folder: Path, stage: int, finished: range) -> None:
    """Refuse a stage whose weights were dropped."""
    there = [one for one in finished if (stage_folder(folder, one) / WEIGHTS_FOLDER).is_dir()]
    if stage not in there:
        found = f"tasks with weights: {listed(there)}" if there else "no task before the last has weights"
        dropped = "run.keep_weights=last keeps those of the newest task only"
        raise UserError(f"fork: task {stage} of {folder} has no weights any more ({dropped}); {found}.")


def listed(numbers: range | list[int]) -> str:
    """Numbers in words: ``1, 2, 3``."""
    return ", ".join(map(str, numbers))
