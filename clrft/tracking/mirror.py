"""One run of the tracking store beside the files that it mirrors: what it lacks, and adding that, exactly once.

The store is compared with the files by metric and step. A run that holds what the files do not (a point twice, another
value, a step that there never was) is moved to MLflow's bin and made anew: MLflow takes no point back.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clrft.tracking.store import Held, Point, RunHandle, Store, cleaned_tags, lacking_params

LARGEST = 1.7976931348623157e308  # stores with a database keep infinity as this


@dataclass(frozen=True, slots=True)
class Facts:
    """What the store is to hold of a run beside its parameters.

    Attributes:
        points: metric points (key, value, step, time in ms).
        artifacts: files, and folders with all that is in them.
        tags: beside those that it was opened with.
        status: FINISHED, FAILED, KILLED, RUNNING; empty = as it is.
    """

    points: tuple[Point, ...] = ()
    artifacts: tuple[Path, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    status: str = ""


@dataclass(slots=True)
class Added:
    """What was added to the store, or would be."""

    runs: int = 0
    renewed: int = 0
    points: int = 0
    files: int = 0
    settings: int = 0  # parameters, tags and statuses

    def __bool__(self) -> bool:
        return any((self.runs, self.renewed, self.points, self.files, self.settings))

    def __iadd__(self, other: "Added") -> "Added":
        self.runs += other.runs
        self.renewed += other.renewed
        self.points += other.points
        self.files += other.files
        self.settings += other.settings
        return self

    def __str__(self) -> str:
        counted = {"run": self.runs, "metric point": self.points, "file": self.files, "tag or setting": self.settings}
        plural = {"tag or setting": "tags and settings"}
        parts = [f"{n} {name if n == 1 else plural.get(name, name + 's')}" for name, n in counted.items() if n]
        parts += [f"{self.renewed} of the runs anew, as the store held something else"] if self.renewed else []
        return ", ".join(parts)


class Mirror:
    """A run of the store, found or made when something is told of it.

    Args:
        store: where it is.
        identity: tag that it is found by.
        name: its display name.
        tags: tags to open it with.
        parent: the run that it is nested in.
        params: its parameters.
    """

    def __init__(
        self,
        store: Store,
        identity: str,
        name: str,
        tags: Mapping[str, str],
        parent: "Mirror | None" = None,
        params: Mapping[str, str] | None = None,
    ) -> None:
        self.store, self.identity, self.name, self.parent = store, identity, name, parent
        self.params = params or {}
        self._tags = tags
        self.run: RunHandle | None = None
        self._opened = False
        self._held: Held | None = None  # None = to be asked for

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty before it was opened."""
        return self.run.run_id if self.run is not None else ""

    @property
    def tags(self) -> dict[str, str]:
        """The tags that it is opened with, its parent's id among them."""
        parent = {} if self.parent is None else {"mlflow.parentRunId": self.parent.run_id}
        if self._tags["clrft.kind"] == "cell":
            parent["clrft.sweep_run"] = parent["mlflow.parentRunId"]
        return {**self._tags, **parent}

    def open(self) -> RunHandle:
        """Find or make the run and set it running, with its parameters; idle once it is open."""
        if self.run is None or not self._opened:
            if self.parent is not None and self.parent.look() is None:
                self.parent.open()
            run, made = self.store.open_run(self.identity, self.name, self.tags)
            self.store.log_params(run, self.params)
            self._held = {} if made else None
            if made and self._tags["clrft.kind"] == "cell":
                self._supersede(run)
            self.run, self._opened = run, True
        return self.run

    def look(self) -> RunHandle | None:
        """Find the run, and make none."""
        if self.run is None:
            if self.parent is not None:
                self.parent.look()
            self.run = self.store.find_run(self.identity)
        return self.run

    def _there(self) -> RunHandle:
        """The run, made if there is none; one that was found keeps its status and gets its parameters."""
        if self.run is None:
            return self.open()
        if not self._opened:
            self.store.log_params(self.run, self.params)
        return self.run

    def add(self, points: Iterable[Point]) -> int:
        """Write the points whose step of that metric the run does not hold; returns how many."""
        run = self._there()
        held = self._known()
        new = [point for point in points if (point[0], point[2]) not in held]
        self._held = None  # until they are known to be there
        self.store.log_points(run.run_id, new)
        for key, value, step, _ in new:
            held.setdefault((key, step), []).append(value)
        self._held = held
        return len(new)

    def settle(self, facts: Facts) -> Added:
        """Make the run hold what it should, and nothing else in its metrics; returns what was added."""
        self._there()
        added = Added()
        if self._strays(facts.points):
            self._renew()
            added.renewed = 1
        added.points = self.add(facts.points)
        run = self._there()
        files = self._lacking_files(facts.artifacts)
        for path in files:
            self.store.log_artifact(run.run_id, path)
        tags = self._lacking_tags(facts)
        if tags:
            self.store.set_tags(run.run_id, tags)
        if facts.status:
            self.store.end(run.run_id, facts.status)
        added.files, added.settings = len(files), len(tags)
        return added

    def lacking(self, facts: Facts) -> Added:
        """What ``settle`` would add, without telling the store anything."""
        run = self.look()
        if run is None or self._strays(facts.points):
            settings = len({**self.tags, **facts.tags}) + len(self.params)
            return Added(int(run is None), int(run is not None), len(facts.points), len(facts.artifacts), settings)
        held = self._known()
        points = sum((key, step) not in held for key, _, step, _ in facts.points)
        settings = len(self._lacking_tags(facts)) + len(lacking_params(run, self.params))
        settings += bool(facts.status) and run.status != facts.status
        return Added(points=points, files=len(self._lacking_files(facts.artifacts)), settings=settings)

    def end(self, status: str) -> None:
        """Close the run."""
        self.store.end(self._there().run_id, status)

    def _known(self) -> Held:
        if self._held is None:
            found = self.store.find_run(self.identity) or self._there()  # what it holds may have grown
            self._held = self.store.held(found)
        return self._held

    def _strays(self, points: Iterable[Point]) -> bool:
        """Whether the run holds a point that the files do not, or one twice."""
        expected = {(key, step): value for key, value, step, _ in points}
        return any(
            len(values) != 1 or place not in expected or not _same(values[0], expected[place])
            for place, values in self._known().items()
        )

    def _renew(self) -> None:
        """Begin the run anew; those nested in it move along."""
        nested = self.store.search({"mlflow.parentRunId": self.run_id})
        self.store.discard(self.run_id)
        self.run, self._held, self._opened = None, None, False
        run = self.open()
        for one in nested:
            self.store.set_tags(one.run_id, {"mlflow.parentRunId": run.run_id})

    def _lacking_files(self, paths: Iterable[Path]) -> list[Path]:
        held = self.store.artifacts(self.run_id)
        return [path for path in paths if not all(held.get(name) == size for name, size in _sizes(path).items())]

    def _lacking_tags(self, facts: Facts) -> dict[str, str]:
        asked = cleaned_tags({**self.tags, **facts.tags})
        held = self.run.tags if self.run is not None else {}
        return {key: value for key, value in asked.items() if held.get(key) != value}

    def _supersede(self, run: RunHandle) -> None:
        """Mark runs of the same cell whose folder is gone, so that they aren't taken for this one."""
        own = {key: value for key, value in self.tags.items() if key in ("clrft.kind", "clrft.cell", "clrft.sweep_run")}
        for other in self.store.search(own):
            mine = other.tags.get("clrft.identity") == self.identity
            if other.run_id != run.run_id and not mine and "clrft.superseded" not in other.tags:
                self.store.set_tags(other.run_id, {"clrft.superseded": "true"})
                self.store.rename(other.run_id, f"{self.name} (superseded)")


def _sizes(path: Path) -> dict[str, int]:
    """Sizes of a file, or of all files of a folder, by the name under which a store has them."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return {one.relative_to(path.parent).as_posix(): one.stat().st_size for one in files}


def _same(held: float, expected: float) -> bool:
    if math.isnan(held) or math.isnan(expected):
        return math.isnan(held) and math.isnan(expected)
    limited = max(-LARGEST, min(LARGEST, float(expected)))
    return math.isclose(held, limited, rel_tol=1e-9, abs_tol=1e-300)
