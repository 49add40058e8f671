"""Feeding MLflow from run folders: what it lacks of them, exactly once, and nothing else.

Every run in the store is compared with its files before anything is written, so a sync that was killed is simply given
again. Runs on which a process works are left out: that process feeds them itself.
"""

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from clrft.config.records import Manifest, read_record, read_stage
from clrft.runs.layout import ERROR_FILE, METRICS_FILE
from clrft.tracking.mlflow_run import SETTINGS, Added, Facts, in_words
from clrft.tracking.runs import (
    Status,
    cell_facts,
    cell_run,
    identity,
    manifest_tags,
    mark,
    sweep_run,
    sweep_status,
    task_facts,
    task_run,
)
from clrft.tracking.store import DATABASE, NoStore, Store, local_uri, tell, tracking_uri
from clrft.utils.files import COMPARISON, REPORT, check_inside
from clrft.utils.locks import Locked, held, lock_path, look
from clrft.utils.plain import read_yaml
from task_streams.errors import UserError


def sync_root(root: Path, folders: Iterable[Path], dry: bool, say: Any = tell) -> None:
    """Feed runs of one folder of all runs, and then their sweeps; says what was added, or if ``dry`` would be.

    A sweep's own run gets its tables, pictures and report, and how it ended. Folders that only others may write to are
    fed into a store of one's own as they are; where somebody works on one, it is left out.

    Raises:
        UserError: the store cannot be reached; what was fed until then stays.
    """
    absent = tracking_uri(root) == local_uri(root) and not (root / DATABASE).exists()
    store = NoStore(root) if dry and absent else Store(root)
    word = "would add" if dry else "added"
    sweeps = set()
    for folder in sorted(folders):
        try:
            if foreign := not os.access(folder, os.W_OK):
                refuse_held(folder)
            with nullcontext() if dry or foreign else held(folder):  # who only looks needs not keep others away
                added = in_words(feed_run(store, folder, dry))
        except Locked as error:
            say(f"{folder}: left out, {error.who} works on it")
            continue
        sweeps.add(folder.resolve().parent)
        say(f"{folder}: {f'{word} {added}' if added else 'nothing is missing'}")
    for folder in sorted(sweeps):
        files = sorted(path for path in (folder / COMPARISON).glob("*") if path.is_file())
        files += [folder / REPORT] if (folder / REPORT).is_dir() else []
        sweep = sweep_run(store, identity(folder, not dry), folder.name)
        run = sweep.look()
        status = sweep_status(store, run.run_id, folder) if run is not None else "FINISHED"
        if added := in_words(sweep.settle(Facts(artifacts=tuple(files), status=status), dry)):
            say(f"{folder}: {word} {added}")


def refuse_held(folder: Path) -> None:
    """Raise ``Locked`` where a process works on a run folder whose lock we cannot take."""
    if (found := look(lock_path(folder))) is not None and not found.gone:
        raise Locked(folder, found.who)


def feed_or_tell(folder: Path) -> None:
    """Feed one finished run whose folder this process holds; a store that cannot be reached is told, no failure."""
    try:
        feed_run(Store(folder.resolve().parent.parent), folder)
    except UserError as error:
        tell(f"warning: {error}\nMLflow lacks some of {folder.name}; clrft sync {folder} feeds it.")


def feed_run(store: Store, folder: Path, dry: bool = False) -> Added:
    """Feed one run, on which nobody works: its cell, its finished tasks; returns what was added.

    Runs of tasks that a process which died left running are closed.
    """
    check_inside(folder)
    name, done = folder.resolve().name, (folder / METRICS_FILE).is_file()
    status: Status = "FINISHED" if done else "FAILED" if (folder / ERROR_FILE).is_file() else "KILLED"
    tags = manifest_tags(read_record(folder / "manifest.json", None, Manifest))
    sweep = sweep_run(store, identity(folder.parent, not dry), folder.resolve().parent.name)
    cell = cell_run(sweep, identity(folder, not dry), name, read_yaml(folder / "config.yaml"), tags)
    if not dry and sweep.look() is None:
        sweep.open()
    added = cell.settle(cell_facts(folder) if done else Facts(status=status), dry)
    for stage in sorted(path.parent for path in folder.glob(f"task_[0-9]*/{METRICS_FILE}")):
        record = read_stage(stage / METRICS_FILE)
        added += task_run(cell, record["task"], record["name"]).settle(task_facts(stage), dry)
    run = cell.look()
    tasks = [] if run is None else store.search({"clrft.kind": "task", "mlflow.parentRunId": run.run_id})
    for task in tasks:
        if task.status == "RUNNING":
            added += Counter({SETTINGS: 1})
            if not dry:
                store.call(store.client.set_terminated, task.run_id, status)
    if done and not dry and os.access(folder, os.W_OK):
        mark(folder)
    return added
