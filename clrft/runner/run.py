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
from clrft.runs.layout import finished_stage, stage_folder
from clrft.runs.manifest import check_same_data, check_same_plugins, run_manifest, write_config
from clrft.runs.provenance import forget_peaks
from clrft.tracking.runs import CellTracker, Tracker, manifest_tags, mark
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
    if ranks.on_rank0(lambda: was_finished(config, reporter)):
        return config.folder
    spare_libraries()
    forget_peaks()
    state = ranks.all_or_fail(lambda: prepare(config, reporter, source))
    tracker = Tracker(Path(config.run.output), config.run.sweep, enabled=config.run.mlflow and ranks.is_rank0())
    ranks.on_rank0(lambda: make_folder(state, source))
    manifest = ranks.all_or_fail(lambda: open_folder(state))
    cell = tracker.cell(config.cell, config.to_dict(), manifest_tags(manifest))
    with stopped_with_run(cell):
        learn(state, cell)
    ranks.on_rank0(lambda: finish(state, cell))
    return config.folder


def was_finished(config: RunConfig, reporter: Reporter) -> bool:
    """Whether an earlier process has finished the run; then the tracking store gets what it lacks of it."""
    if not is_complete(config):
        return False
    reporter.say(f"{config.cell}: done already, in {config.folder}")
    if not is_done(config):
        feed_or_tell(config.folder)
    return True


@cache
def spare_libraries() -> None:
    """Let garbage collections pass over what importing the libraries has made: it stays as long as the process.

    A trainer collects garbage when it begins; without this each task waits a third of a second for it.
    """
    gc.collect()
    gc.freeze()


@contextmanager
def stopped_with_run(cell: CellTracker) -> Iterator[None]:
    """Close the tracked run with its end when the block fails; the failure itself goes on."""
    try:
        yield
    except BaseException as failure:
        cell.stop("KILLED" if isinstance(failure, KeyboardInterrupt) else "FAILED")
        raise


def make_folder(state: Run, source: Source | None = None) -> None:
    """Make the run folder with its config and manifest, or with a fork's first tasks, if there is none yet."""
    path = state.folder / "manifest.json"
    if source is not None and not path.exists():
        plant(state, source)
    state.folder.mkdir(parents=True, exist_ok=True)
    clean_partials(state.folder)
    if not path.exists():
        write_config(state.config, state.folder)
        write_json_atomic(path, manifest_of(state))


def manifest_of(state: Run) -> dict[str, Any]:
    """The manifest of a run that begins now."""
    model, probes = describe_model(state.policy), fingerprints_of(state.probes)
    manifest = run_manifest(state.config, state.stream, model, state.method, probes)
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
    done = ranks.on_rank0(lambda: checked_stage(state))
    if done is not None:
        state.parent = identity_of(state.folder, done)
    if done and state.method.family != "frozen":
        take = take_over if is_fork_point(state, done) else put_back
        ranks.all_or_fail(lambda: take(state, stage_folder(state.folder, done), done))
    if done is not None:
        state.reporter.say(f"{state.config.cell}: going on after stage {done}")
    for stage in state.stages:
        task = cell.task(stage, stage_name(state, stage))
        if done is not None and stage <= done:
            task.finish(stage_folder(state.folder, stage), learned_before=True)
            continue
        learn_stage(state, stage, lambda row, task=task: task.steps([row]))  # type: ignore[misc]
        task.finish(stage_folder(state.folder, stage), learned_before=False)
        ranks.on_rank0(lambda stage=stage: drop_older_weights(state, stage))  # type: ignore[misc]


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


def finish(state: Run, cell: CellTracker) -> None:
    """Write the results of a run whose every stage is done, and close it in the tracking store."""
    names = [task.name for task in state.stream.tasks]
    write_results(state.folder, names, state.stages, state.config.evaluate.metrics)
    complete = cell.finish()
    if state.config.run.mlflow:
        mark(state.folder, complete)
