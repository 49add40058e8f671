"""One run: for each task fit, evaluate, record, save.

Everything that a user can get wrong is checked in ``prepare``, before any work. A run that was stopped goes on
after its last finished task.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from clrft.config.records import MANIFEST, MANIFEST_OTHERS, read_record
from clrft.config.run_config import RunConfig
from clrft.runner.checkpoint import finished_stage
from clrft.runner.disk_check import check_space
from clrft.runner.fork import Source, check_has_forked, is_fork_point, plant, take_over
from clrft.runner.lineage import check_lineage, config_digest, identity_of
from clrft.runner.outcome import is_complete, is_done
from clrft.runner.partial_checkpoint import clear_finished
from clrft.runner.prepare import prepare
from clrft.runner.results import write_results
from clrft.runner.stage import drop_older_weights, learn_stage
from clrft.runner.state import Run, stage_name
from clrft.runner.train import put_back
from clrft.runs.fork_history import origins_of
from clrft.runs.layout import stage_folder
from clrft.runs.manifest import check_same_data, check_same_plugins, run_manifest, write_config
from clrft.runs.provenance import forget_peaks
from clrft.tracking.runs import CellTracker, TaskTracker, Tracker, manifest_tags, mark
from clrft.tracking.sync import feed_or_tell
from clrft.utils.files import clean_partials, write_json_atomic
from clrft.utils.progress import Reporter
from methods.distributed import ranks
from methods.model.config import describe_model
from task_streams.probes.sets import fingerprints_of


def run(config: RunConfig, reporter: Reporter, source: Source | None = None) -> Path:
    """Run one cell from where it stands to its end; returns its folder.

    Args:
        config: its settings.
        reporter: shows progress.
        source: the stage that it is forked from where it has no folder yet; None = it learns from the first task on.

    Raises:
        UserError: something about the input cannot work; nothing was trained.
    """
    if ranks.by_first(lambda: is_complete(config)):
        reporter.say(f"{config.cell}: done already, in {config.folder}")
        ranks.by_first(lambda: feed_tracking(config))
        return config.folder
    spare_libraries()
    forget_peaks()
    state = ranks.together(lambda: prepare(config, reporter, source))
    if source is not None:
        ranks.by_first(lambda: plant_once(state, source))
    tracker = Tracker(Path(config.run.output), config.run.sweep, enabled=config.run.mlflow and ranks.is_first())
    ranks.by_first(lambda: make_folder(state))
    manifest = ranks.together(lambda: open_folder(state))
    cell = tracker.cell(config.cell, config.to_dict(), manifest_tags(manifest))
    with stopped_with_run(cell):
        learn(state, cell)
    ranks.by_first(lambda: finish(state, cell))
    return config.folder


@cache
def spare_libraries() -> None:
    """Let garbage collections pass over what importing the libraries has made: it stays as long as the process.

    A trainer collects garbage when it begins; without this each task waits a third of a second for it.
    """
    gc.collect()
    gc.freeze()


def finish(state: Run, cell: CellTracker) -> None:
    """Write the results of a run whose every stage is done, and close it in the tracking store."""
    names = [task.name for task in state.stream.tasks]
    write_results(state.folder, names, state.stages, state.config.evaluate.metrics)
    finish_tracking(state.config, cell)


def plant_once(state: Run, source: Source) -> None:
    """Make a fork's folder if there is none yet."""
    if not (state.folder / "manifest.json").exists():
        plant(state, source)


@contextmanager
def stopped_with_run(cell: CellTracker) -> Iterator[None]:
    """Close the tracked run with its end when the block fails; the failure itself goes on."""
    try:
        yield
    except BaseException as failure:
        cell.stop("KILLED" if isinstance(failure, KeyboardInterrupt) else "FAILED")
        raise


def make_folder(state: Run) -> None:
    """Make the run folder with its config and manifest, if they are not there yet."""
    state.folder.mkdir(parents=True, exist_ok=True)
    clean_partials(state.folder)
    path = state.folder / "manifest.json"
    if not path.exists():
        write_config(state.config, state.folder)
        write_json_atomic(path, manifest_of(state))


def manifest_of(state: Run) -> dict[str, Any]:
    """The manifest of a run that begins now."""
    manifest = run_manifest(
        state.config, state.stream, describe_model(state.policy), state.method, fingerprints_of(state.probes)
    )
    return {**manifest, "memory": state.memory}


def open_folder(state: Run) -> dict[str, Any]:
    """Check that the run folder is this run's, and take up what its manifest says; returns the manifest."""
    manifest = manifest_of(state)
    state.data = manifest["data"]
    saved = read_record(state.folder / "manifest.json", None, MANIFEST, MANIFEST_OTHERS)
    check_same_data(state.folder, saved, manifest)
    check_same_plugins(state.folder, saved, manifest)
    state.carry, state.origins = saved.get("carry", {}), origins_of(state.folder, saved)
    return saved


def learn(state: Run, cell: CellTracker) -> None:
    """Every stage that is not on disk yet, in order; those that are go to the tracking store from their files."""
    done = ranks.by_first(lambda: checked_stage(state))
    if done is not None:
        state.parent = identity_of(state.folder, done)
    if done and state.method.family != "frozen":
        take = take_over if is_fork_point(state, done) else put_back
        ranks.together(lambda: take(state, stage_folder(state.folder, done), done))
    if done is not None:
        state.reporter.say(f"{state.config.cell}: going on after stage {done}")
    for stage in state.stages:
        task = cell.task(stage, stage_name(state, stage))
        if done is not None and stage <= done:
            track_finished(task, stage_folder(state.folder, stage), steps=True)
            continue
        learn_stage(state, stage, lambda row, task=task: task.steps([row]))  # type: ignore[misc]
        track_finished(task, stage_folder(state.folder, stage), steps=False)
        ranks.by_first(lambda stage=stage: drop_older_weights(state, stage))  # type: ignore[misc]


def checked_stage(state: Run) -> int | None:
    """The last finished stage, None if there is none; what is on disk is whole, and there is room for the rest."""
    done = finished_stage(state.folder, state.stages)
    check_has_forked(state, done)
    if done is not None:
        finished = [stage for stage in state.stages if stage <= done]
        check_lineage(state.folder, finished, config_digest(state.config), state.data, state.origins)
        clear_finished(state.folder, finished)
    check_space(state, done)
    return done


def track_finished(task: TaskTracker, folder: Path, steps: bool) -> None:
    """Give the tracking store what it lacks of a finished stage; ``steps``: an earlier process has learned it."""
    task.finish(folder, learned_before=steps)


def feed_tracking(config: RunConfig) -> None:
    """Give the tracking store what it lacks of a finished run, from the run's files."""
    if not is_done(config):
        feed_or_tell(config.folder)


def finish_tracking(config: RunConfig, cell: CellTracker) -> None:
    """Close the tracked run with its results, and remember whether the store has all of it."""
    complete = cell.finish()
    if config.run.mlflow:
        mark(config.folder, complete)
