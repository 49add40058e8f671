"""A run from its lock to its matrix: prepare, learn and test stage by stage, write the results.

Everything that a user can get wrong is checked in ``prepare``, before any work. A run that was stopped goes on
after its last finished task.
"""

import gc
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clrft.config.records import Manifest, read_record, read_stage
from clrft.config.run_config import RunConfig
from clrft.runner.fork import Source, plant
from clrft.runner.lineage import check_lineage, config_digest, identity_of
from clrft.runner.outcome import Elsewhere, Failure, forget_failure, is_complete, is_done, keep_failure, known_failure
from clrft.runner.partial_checkpoint import clear
from clrft.runner.prepare import prepare
from clrft.runner.resource_checks import check_space
from clrft.runner.same_run import check_same_run
from clrft.runner.stage import learn_stage, put_back
from clrft.runner.state import Run
from clrft.runs.answers import answers_told
from clrft.runs.fork_history import origins_of
from clrft.runs.layout import ERROR_FILE, METRICS_FILE, finished_stage, stage_folder
from clrft.runs.manifest import check_same_data, run_manifest, write_config
from clrft.runs.provenance import forget_peaks, usable_cores
from clrft.runs.read import read_run
from clrft.runs.taxonomy import run_kinds, task_classes
from clrft.tracking.runs import CellTracker, Tracker, manifest_tags, mark
from clrft.tracking.sync import feed_or_tell
from clrft.utils import interrupt
from clrft.utils.console import SafeConsole
from clrft.utils.failures import explained
from clrft.utils.files import check_writable, clean_partials, read_json, write_json_atomic
from clrft.utils.locks import TIMING, Held, Locked, Timing, held
from clrft.utils.progress import Bars, Reporter
from eval.matrix import AccuracyMatrix
from eval.metrics import DRIFTS, METRICS, Value, compute_metrics, general_delta, mean_kl
from eval.taxonomy import KINDS
from methods.distributed import ranks
from methods.model.config import describe_model
from task_streams.errors import UserError

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Watched:
    """Passes progress on as long as the run's lock is this process's."""

    reporter: Reporter
    lock: Held

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        self.lock.check()
        self.reporter.begin(cell, activity, total)

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        self.lock.check()
        self.reporter.advance(cell, units, figures)

    def say(self, text: str) -> None:
        self.reporter.say(text)


def run_alone(config: RunConfig, reporter: Reporter | None = None, source: Source | None = None) -> Path:
    """Run one cell as the only process on its folder, or with the other processes of the run; returns the folder.

    Args:
        config: the cell.
        reporter: shows progress; None: bars on the terminal.
        source: the stage that it is forked from where it has no folder yet; None = it learns from the first task on.

    Raises:
        Locked: another process works on it.
        UserError: something about the input cannot work, or the processes of the run differ.
    """
    with ExitStack() as stack:
        shown: Reporter = stack.enter_context(Bars(SafeConsole(stderr=True))) if reporter is None else reporter
        check_same_run(config, shown)
        if ranks.on_rank0(lambda: is_done(config)):
            return run(config, shown)

        def take() -> None:
            nonlocal shown
            check_writable(config.folder.parent)
            shown = Watched(shown, stack.enter_context(held(config.folder)))
            forget_failure(config.folder)

        ranks.on_rank0(take)
        folder = run(config, shown, source)
        ranks.on_rank0(lambda: forget_failure(config.folder))
        return folder


def run_cell(config: RunConfig, reporter: Reporter, since: int, timing: Timing = TIMING) -> Failure | Elsewhere | None:
    """Run one cell of a sweep; what goes wrong comes back as a record, and stays as a file in the run folder.

    Args:
        config: the cell.
        reporter: shows progress.
        since: when the sweep began, by the file system's clock (ns): a cell that another process has seen fail since
            is not tried again.
        timing: when the lock of another process counts as left behind.
    """
    try:
        if is_done(config):
            return None
        check_writable(config.folder.parent)
        with held(config.folder, timing) as lock:
            return known_failure(config, since) or attempt(config, Watched(reporter, lock))
    except Locked as error:
        return Elsewhere(config.cell, error.who)
    except UserError as error:
        return Failure(config.cell, str(error))


def attempt(config: RunConfig, reporter: Reporter) -> Failure | None:
    """Run a cell whose lock is held."""
    forget_failure(config.folder)
    try:
        run(config, reporter)
    except UserError as error:
        keep_failure(config.folder, str(error))
        return Failure(config.cell, str(error))
    except Exception as error:
        if interrupt.asked():  # and swallowed on its way
            raise KeyboardInterrupt from error
        if known := explained(error):
            keep_failure(config.folder, known)
            return Failure(config.cell, known)
        reason = f"{type(error).__name__}: {error}"
        keep_failure(config.folder, reason, traceback.format_exc())
        return Failure(config.cell, f"{reason} (traceback in {config.folder / ERROR_FILE})")
    for sentence in answers_told(read_run(config.folder))[1]:
        reporter.say(f"{config.cell}: {sentence}")
    return None


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
    if not gc.get_freeze_count():  # collections pass over the libraries: each trainer asks for one, of 0.3 s else
        gc.collect()
        gc.freeze()
    forget_peaks()
    with threads_as_begun(config, reporter):
        state = ranks.all_or_fail(lambda: prepare(config, reporter, source))
        tracker = Tracker(Path(config.run.output), config.run.sweep, enabled=config.run.mlflow and ranks.is_rank0())
        manifest = open_folder(state, source)
        cell = tracker.cell(config.cell, config.to_dict(), manifest_tags(manifest))
        try:
            learn(state, cell)
        except BaseException as failure:
            cell.stop("KILLED" if isinstance(failure, KeyboardInterrupt) else "FAILED")
            raise
    ranks.on_rank0(lambda: finish(state, cell))
    return config.folder


@contextmanager
def threads_as_begun(config: RunConfig, reporter: Reporter) -> Iterator[None]:
    """Inside the block a run on the CPU that goes on has as many threads as it began with: others sum to other bits."""
    file = config.folder / "manifest.json"
    saved = read_record(file, None, Manifest) if file.exists() else {}
    begun = saved.get("hardware", {}).get("torch_threads")
    if not isinstance(begun, int) or saved.get("model", {}).get("device") != "cpu":
        yield
        return
    before, cores = torch.get_num_threads(), usable_cores()
    if begun > cores:
        reporter.say(
            f"{config.cell}: begun with {begun} CPU threads, and goes on with the {cores} cores there are here"
        )
    torch.set_num_threads(max(1, min(begun, cores)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def was_finished(config: RunConfig, reporter: Reporter) -> bool:
    """Whether an earlier process has finished the run; then the tracking store gets what it lacks of it."""
    if not is_complete(config):
        return False
    reporter.say(f"{config.cell}: done already, in {config.folder}")
    if not is_done(config):
        feed_or_tell(config.folder)
    return True


def open_folder(state: Run, source: Source | None = None) -> dict[str, Any]:
    """Make the run folder if there is none yet, with a fork's first tasks, and take up its manifest, which it returns.

    A folder that is not this run's, or not of these data and plugins, is refused.
    """
    path = state.folder / "manifest.json"
    probes = {probe.name: probe.fingerprint for probe in state.probes}
    fresh = ranks.all_or_fail(
        lambda: run_manifest(state.config, state.stream, describe_model(state.policy), state.method, probes, state.base)
    ) | {"memory": state.memory}

    def make() -> None:
        if source is not None and not path.exists():
            plant(state, source, fresh)
        state.folder.mkdir(parents=True, exist_ok=True)
        clean_partials(state.folder)
        if not path.exists():
            write_config(state.config, state.folder)
            write_json_atomic(path, fresh)

    def take_up() -> dict[str, Any]:
        saved = read_record(path, None, Manifest)
        check_same_data(state.folder, saved, fresh)
        then, now = saved.get("plugins", {}), fresh["plugins"]
        if sorted(then.values()) != sorted(now.values()):
            raise UserError(
                f"{state.folder}: the plugin ({', '.join(sorted({*then, *now}))}) is not what this run began with; "
                "restore it or start a new run."
            )
        state.data, state.carry = fresh["data"], saved.get("carry", {})
        state.origins = origins_of(state.folder, saved)
        return saved

    ranks.on_rank0(make)
    return ranks.all_or_fail(take_up)


def learn(state: Run, cell: CellTracker) -> None:
    """Every stage that is not on disk yet, in order; those that are go to the tracking store from their files."""
    done = ranks.on_rank0(lambda: checked_stage(state))
    if done is not None:
        state.parent = identity_of(state.folder, done)
    if done and state.method.family != "frozen":
        ranks.all_or_fail(lambda: put_back(state, stage_folder(state.folder, done), done))
    if done is not None:
        state.reporter.say(f"{state.config.cell}: going on after stage {done}")
    for stage in state.stages:
        task = cell.task(stage, state.tasks[stage].name if stage else "base")
        learned_before = done is not None and stage <= done
        if not learned_before:
            learn_stage(state, stage, task.steps)
        task.finish(stage_folder(state.folder, stage), learned_before)


def checked_stage(state: Run) -> int | None:
    """The last finished stage, None if there is none; what is on disk is whole, and there is room for the rest.

    A fork that has lost a stage of the run it was forked from is refused: this run's method did not learn it.
    """
    done = finished_stage(state.folder, state.stages)
    if origin := next((one for one in state.origins if done is None or one.stage > done), None):
        lost = stage_folder(state.folder, 0 if done is None else done + 1)
        raise UserError(
            f"{lost} is missing or not whole; it is that of {origin.run}. Restore it, or remove {state.folder} and "
            "fork again."
        )
    if done is not None:
        finished = [stage for stage in state.stages if stage <= done]
        check_lineage(
            state.folder, finished, config_digest(state.config), state.data, state.base.identity, state.origins
        )
        for stage in finished:  # a process that was killed may have left work of it
            clear(state.folder, stage)
    check_space(state, done)
    return done


def finish(state: Run, cell: CellTracker) -> None:
    """Write the results of a run whose every stage is done, and close it in the tracking store."""
    names = [task.name for task in state.stream.tasks]
    write_results(state.folder, names, state.stages, state.config.evaluate.metrics)
    complete = cell.finish()
    if state.config.run.mlflow:
        mark(state.folder, complete)


def write_results(
    folder: Path, tasks: Sequence[str], stages: Sequence[int], keys: Iterable[str]
) -> tuple[AccuracyMatrix, dict[str, Value]]:
    """Write ``matrix.json`` and, last, ``metrics.json``, whose presence marks the run complete.

    Of the metrics asked for, the matrix tells most; the others are the change on the probes between first and last
    stage, KL over stages, and kinds of answers.
    """
    records = {stage: read_stage(stage_folder(folder, stage) / METRICS_FILE, SCHEMA) for stage in stages}
    matrix = matrix_of(tasks, records)
    asked = list(keys)
    values = compute_metrics(matrix, [key for key in asked if METRICS[key].compute is not None])
    if "general_delta" in asked:
        values |= general_delta(records[min(records)]["probe"], records[max(records)]["probe"])
    drifts = {stage: record["drift"] for stage, record in records.items() if record.get("drift")}
    for key in (key for key in DRIFTS if key in asked):
        values |= mean_kl(key, drifts)
    if any(key in asked for key in KINDS):
        manifest = read_json(folder / "manifest.json", SCHEMA)
        kinds = run_kinds(folder, matrix, task_classes(manifest, len(matrix))).metrics
        values |= {key: kinds[key] for key in KINDS if key in asked}
    write_json_atomic(folder / "matrix.json", matrix.to_json())
    body = {key: {"value": value.value, "reason": value.reason} for key, value in values.items()}
    write_json_atomic(folder / METRICS_FILE, {"schema": SCHEMA, "metrics": body})
    return matrix, values


def matrix_of(tasks: Sequence[str], records: dict[int, dict[str, Any]]) -> AccuracyMatrix:
    """The accuracy matrix from every stage's counts, or values where there are no counts, and what was pooled."""
    matrix = AccuracyMatrix.empty(tasks)
    for stage, record in records.items():
        matrix = matrix.with_rows(final_list={int(j): value for j, value in record.get("final_list", {}).items()})
        values = {int(j): value for j, value in record["accuracy"].items()}
        if stage == 0:
            matrix = matrix.with_rows(base=values)
            continue
        counts = {int(j): (right, record["total"][j]) for j, right in record["correct"].items() if right is not None}
        matrix = matrix.with_row(stage, {j: counts.get(j, value) for j, value in values.items()})
        if record.get("pooled") is not None:
            matrix = matrix.with_rows(pooled={stage: record["pooled"]})
    return matrix
