"""One run of MLflow beside the files that it is fed from: what it lacks, and adding that, exactly once.

The two are compared by metric and step. A run that holds what the files do not (a point twice, another value, a step
that there never was) is moved to MLflow's bin and made anew: MLflow takes no point back.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from clrft.tracking.store import Held, Point, RunHandle, Store, cleaned

LARGEST = 1.7976931348623157e308  # stores with a database keep infinity as this
Added = Counter[str]  # how many runs, … were added, or would be
RUNS, POINTS, FILES, SETTINGS, RENEWED = "run", "metric point", "file", "tag or setting", "renewed"
PLURALS = {RUNS: "runs", POINTS: "metric points", FILES: "files", SETTINGS: "tags and settings"}


def in_words(added: Added) -> str:
    """What was added to MLflow; empty for nothing."""
    parts = [f"{added[one]} {one if added[one] == 1 else many}" for one, many in PLURALS.items() if added[one]]
    if added[RENEWED]:
        parts.append(f"{added[RENEWED]} of the runs anew, as the store held something else")
    return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Facts:
    """What MLflow is to hold of a run beside its parameters."""

    points: tuple[Point, ...] = ()  # key, value, step, time in ms
    artifacts: tuple[Path, ...] = ()  # files, and folders with all that is in them
    tags: Mapping[str, str] = field(default_factory=dict)  # beside those that it was opened with
    status: str = ""  # FINISHED, FAILED, KILLED, RUNNING; empty = as it is


@dataclass(slots=True)
class MlflowRun:
    """A run of MLflow, found or made when it is fed."""

    store: Store  # where it is
    identity: str  # tag that it is found by
    name: str  # its display name
    own_tags: Mapping[str, str]  # to open it with
    parent: "MlflowRun | None" = None  # the run that it is nested in
    params: Mapping[str, str] = field(default_factory=dict)
    _found: RunHandle | None = field(default=None, init=False)
    _open: bool = field(default=False, init=False)
    _held: Held | None = field(default=None, init=False)  # None = to be asked for

    @property
    def tags(self) -> dict[str, str]:
        """The tags that it is opened with, its parent's id among them."""
        if self.parent is None:
            return dict(self.own_tags)
        parent = self.parent.look()
        run_id = "" if parent is None else parent.run_id
        sweep = {"clrft.sweep_run": run_id} if self.own_tags["clrft.kind"] == "cell" else {}
        return {**self.own_tags, "mlflow.parentRunId": run_id, **sweep}

    def look(self) -> RunHandle | None:
        """Find the run, and make none."""
        if self._found is None:
            found = self.store.search({"clrft.identity": self.identity})
            self._found = found[0] if found else None  # the oldest of several, which a repeated call may make
        return self._found

    def open(self) -> RunHandle:
        """Find or make the run and set it running, with its parameters; idle once it is open."""
        if self._found is None or not self._open:
            if self.parent is not None and self.parent.look() is None:
                self.parent.open()
            run, made = self.store.open_run(self.identity, self.name, self.tags)
            self.store.log(run.run_id, {key: value for key, value in self.params.items() if key not in run.params})
            self._held = {} if made else None
            if made and self.own_tags["clrft.kind"] == "cell":
                kinds = ("clrft.kind", "clrft.cell", "clrft.sweep_run")
                like = {key: value for key, value in self.tags.items() if key in kinds}
                for other in self.store.search(like):  # whose folder is gone: it must not be taken for this one
                    mine = other.tags.get("clrft.identity") == self.identity
                    if other.run_id != run.run_id and not mine and "clrft.superseded" not in other.tags:
                        self.store.log(other.run_id, tags={"clrft.superseded": "true"})
                        self.store.call(self.store.client.update_run, other.run_id, name=f"{self.name} (superseded)")
            self._found, self._open = replace(run, params={**run.params, **self.params}), True
        return self._found

    def add(self, points: Iterable[Point]) -> None:
        """Write the points whose step of that metric the run does not hold."""
        run = self.look() or self.open()
        held = self._holds()
        new = [point for point in points if (point[0], point[2]) not in held]
        self._held = None  # until they are known to be there
        self.store.log(run.run_id, points=new)
        for key, value, step, _ in new:
            held.setdefault((key, step), []).append(value)
        self._held = held

    def settle(self, facts: Facts, dry: bool = False) -> Added:
        """Make the run hold what it should, and nothing else in its metrics; returns what was added.

        A run that lacks nothing is not touched. ``dry``: none is, and what would be added is returned.
        """
        run = self.look()
        whole: Added | None = None
        if run is None or self._strays(facts.points):
            settings = len({**self.tags, **facts.tags}) + len(self.params)
            counts = {RUNS: int(run is None), RENEWED: int(run is not None), SETTINGS: settings}
            whole = +Counter({**counts, POINTS: len(facts.points), FILES: len(facts.artifacts)})
            if dry:
                return whole
            run = self.open() if run is None else self._renew(run)
        held = self._holds()
        points = [point for point in facts.points if (point[0], point[2]) not in held]
        stored = self.store.artifacts(run.run_id) if facts.artifacts else {}
        files = [path for path in facts.artifacts if not sizes(path).items() <= stored.items()]
        wanted = cleaned({**self.tags, **facts.tags})
        tags = {key: value for key, value in wanted.items() if run.tags.get(key) != value}
        ends = bool(facts.status) and run.status != facts.status
        params = {key: value for key, value in self.params.items() if key not in run.params}
        settings = len(tags) + len(params) + ends
        added = whole or +Counter({POINTS: len(points), FILES: len(files), SETTINGS: settings})
        if dry:
            return added
        self.store.log(run.run_id, params)
        self.add(points)
        for path in files:
            self.store.call(self.store.client.log_artifact, run.run_id, str(path))  # replaces one of its name
        self.store.log(run.run_id, tags=tags)
        if ends:
            self.end(facts.status)
        return added

    def end(self, status: str) -> None:
        """Close the run."""
        run = self.look() or self.open()
        self.store.call(self.store.client.set_terminated, run.run_id, status)
        self._found = replace(run, status=status)

    def _holds(self) -> Held:
        """Every point of the run, which is there."""
        if self._held is None:
            held: Held = {}
            for run in self.store.search({"clrft.identity": self.identity})[:1]:  # again, as it may have grown
                for key in run.keys:
                    for point in self.store.call(self.store.client.get_metric_history, run.run_id, key):
                        held.setdefault((key, point.step), []).append(point.value)
            self._held = held
        return self._held

    def _strays(self, points: Iterable[Point]) -> bool:
        """Whether the run holds a point that the files do not, or one twice."""
        expected = {(key, step): np.clip(value, -LARGEST, LARGEST) for key, value, step, _ in points}
        return any(
            len(values) != 1
            or place not in expected
            or not np.isclose(values[0], expected[place], rtol=1e-9, atol=1e-300, equal_nan=True)
            for place, values in self._holds().items()
        )

    def _renew(self, old: RunHandle) -> RunHandle:
        """Begin the run anew; those nested in it move along."""
        nested = self.store.search({"mlflow.parentRunId": old.run_id})
        self.store.call(self.store.client.delete_run, old.run_id)  # to MLflow's bin
        self._found, self._held, self._open = None, None, False
        run = self.open()
        for one in nested:
            self.store.log(one.run_id, tags={"mlflow.parentRunId": run.run_id})
        return run


def sizes(path: Path) -> dict[str, int]:
    """Sizes of a file, or of all files of a folder, by the name under which a store has them."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return {one.relative_to(path.parent).as_posix(): one.stat().st_size for one in files}
