"""Feeding the tracking store from run folders: what it lacks of them, exactly once, and nothing else.

Every run in the store is compared with its files before anything is written, so a sync that was killed is simply given
again. Runs on which a process works are left out: that process feeds them itself.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clrft.config.records import MANIFEST, MANIFEST_OTHERS, MARK, read_record, read_stage
from clrft.tracking.mirror import Added, Facts, Mirror
from clrft.tracking.runs import (
    ERROR_FILE,
    METRICS_FILE,
    SCHEMA,
    Status,
    cell_facts,
    cell_mirror,
    identity,
    manifest_tags,
    mark,
    sweep_mirror,
    sweep_status,
    task_facts,
    task_mirror,
)
from clrft.tracking.store import Store, tell, tracking_uri
from clrft.utils.files import COMPARISON, REPORT, check_inside
from clrft.utils.locks import Locked, held
from clrft.utils.plain import read_yaml
from task_streams.errors import UserError

UNKNOWN = "not fed yet"  # stands for the identity of a folder that has none


@dataclass(frozen=True, slots=True)
class Feeding:
    """Feeding the runs of one folder of runs into its store.

    Attributes:
        store: of the folder of all runs; None where there is none yet and nothing is to be written.
        dry: only count what would be added.
    """

    store: Store | None
    dry: bool

    def settle(self, mirror: Mirror, facts: Facts) -> Added:
        """Add to one run what it lacks; one that lacks nothing is not touched."""
        lacking = mirror.lacking(facts)
        if lacking and not self.dry:
            mirror.settle(facts)
        return lacking


def sync_root(root: Path, folders: Iterable[Path], dry: bool, say: Any = tell) -> Added:
    """Feed runs of one folder of all runs, and then their sweeps; returns what was added.

    Raises:
        UserError: the store cannot be reached; what was fed until then stays.
    """
    feeding = Feeding(store_of(root, dry), dry)
    word = "would add" if dry else "added"
    whole = Added()
    sweeps = set()
    for folder in sorted(folders):
        try:
            with unworked(folder, dry):
                added = feed_run(feeding, folder)
        except Locked as error:
            say(f"{folder}: left out, {error.who} works on it")
            continue
        sweeps.add(folder.resolve().parent)
        say(f"{folder}: {f'{word} {added}' if added else 'nothing is missing'}")
        whole += added
    for folder in sorted(sweeps):
        added = feed_sweep(feeding, folder)
        if added:
            say(f"{folder}: {word} {added}")
        whole += added
    return whole


def store_of(root: Path, dry: bool) -> Store | None:
    """The store of a folder of all runs; None rather than to make one for nothing."""
    local = f"sqlite:///{root.resolve() / 'mlflow.db'}"
    if dry and tracking_uri(root) == local and not (root / "mlflow.db").exists():
        return None
    return Store(root)


@contextmanager
def unworked(folder: Path, dry: bool) -> Iterator[None]:
    """Keep other processes away from a run folder; who only looks needs not."""
    if dry:
        yield
        return
    with held(folder):
        yield


def fed_from(folder: Path) -> bool:
    """Whether a folder tells enough of its run to feed it."""
    return (folder / "config.yaml").is_file() and (folder / "manifest.json").is_file()


def feed_or_tell(folder: Path) -> None:
    """Feed one finished run whose folder this process holds; a store that cannot be reached is told, no failure."""
    try:
        feeding = Feeding(Store(folder.resolve().parent.parent), dry=False)
        feed_run(feeding, folder)
    except UserError as error:
        tell(f"warning: {error}\nMLflow lacks some of {folder.name}; clrft sync {folder} feeds it.")


def feed_run(feeding: Feeding, folder: Path) -> Added:
    """Feed one run: its cell, its finished tasks; returns what was added."""
    done = (folder / METRICS_FILE).is_file()
    status = ended(folder)
    if feeding.store is None:
        return everything(folder, done)
    sweep = sweep_mirror(feeding.store, mark_of(folder.parent, feeding.dry), folder.resolve().parent.name)
    check_inside(folder)
    tags = manifest_tags(read_record(folder / "manifest.json", None, MANIFEST, MANIFEST_OTHERS))
    own = mark_of(folder, feeding.dry)
    cell = cell_mirror(feeding.store, own, folder.resolve().name, read_yaml(folder / "config.yaml"), tags, sweep)
    if not feeding.dry and sweep.look() is None:
        sweep.open()
    added = feeding.settle(cell, cell_facts(folder) if done else Facts(status=status))
    for stage in finished_stages(folder):
        record = read_stage(stage / METRICS_FILE)
        task = task_mirror(cell, own, record["task"], record["name"])
        added += feeding.settle(task, task_facts(stage))
    added += close_left(feeding, cell, status)
    if done and not feeding.dry:
        mark(folder)
    return added


def everything(folder: Path, done: bool) -> Added:
    """What a store that is not there yet would get of a run."""
    facts = [task_facts(stage) for stage in finished_stages(folder)] + ([cell_facts(folder)] if done else [])
    points, files = (sum(len(getattr(one, name)) for one in facts) for name in ("points", "artifacts"))
    return Added(runs=len(facts) + (not done), points=points, files=files)


def finished_stages(folder: Path) -> list[Path]:
    """Folders of the finished stages of a run."""
    return sorted(path.parent for path in folder.glob(f"task_[0-9]*/{METRICS_FILE}"))


def ended(folder: Path) -> Status:
    """How a run on which nobody works has ended."""
    if (folder / METRICS_FILE).is_file():
        return "FINISHED"
    return "FAILED" if (folder / ERROR_FILE).is_file() else "KILLED"


def close_left(feeding: Feeding, cell: Mirror, status: Status) -> Added:
    """Close runs of tasks that a process which died left running."""
    added = Added()
    if feeding.store is None or not cell.run_id:
        return added
    for task in feeding.store.search({"clrft.kind": "task", "mlflow.parentRunId": cell.run_id}):
        if task.status == "RUNNING":
            added.settings += 1
            if not feeding.dry:
                feeding.store.end(task.run_id, status)
    return added


def feed_sweep(feeding: Feeding, folder: Path) -> Added:
    """Feed a sweep's own run: its tables, pictures and report, and how it ended."""
    report = [folder / REPORT] if (folder / REPORT).is_dir() else []
    files = (*sorted(path for path in (folder / COMPARISON).glob("*") if path.is_file()), *report)
    if feeding.store is None:
        return Added(runs=1, files=len(files))
    mirror = sweep_mirror(feeding.store, mark_of(folder, feeding.dry), folder.name)
    run = mirror.look()
    status = sweep_status(feeding.store, run.run_id, folder) if run is not None else "FINISHED"
    return feeding.settle(mirror, Facts(artifacts=files, status=status))


def mark_of(folder: Path, dry: bool) -> str:
    """Identity of a folder in the store, which is made only if something is to be written."""
    if not dry:
        return identity(folder)
    path = folder / "mlflow.json"
    return str(read_record(path, SCHEMA, MARK)["identity"]) if path.exists() else f"{UNKNOWN}: {folder.name}"
