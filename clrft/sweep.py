"""A sweep: streams x methods x class orders (x settings), every cell a run; what is done is skipped.

Cells run in worker processes, several at a time where the machine has the cores; a failing cell is reported and
the others go on. Deliberately absent: locks between two sweep processes on one folder.
"""

import itertools
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

from clrft.config import RunConfig, Values, build_config, merge, parse_overrides, read_yaml
from clrft.files import config_root, safe_name
from clrft.progress import Bars
from clrft.quiet import quiet_environment, quiet_libraries
from clrft.run import is_done, run
from methods.registry import load_plugins
from task_streams.errors import UserError, unknown_name
from task_streams.presets import order_seeds

SWEEP_KEYS = ("sweep", "streams", "methods", "models", "seeds", "set", "vary", "per_method", "parts")


@dataclass(frozen=True, slots=True)
class Failure:
    """A cell that did not finish: which, why in a sentence, and where the traceback is."""

    cell: str
    reason: str


def load_sweep(name: str, overrides: Values) -> list[RunConfig]:
    """Every cell of a sweep, checked.

    A sweep file names ``streams``, ``methods``, ``models`` and ``seeds``; ``set`` overrides fields in every cell,
    ``per_method`` in one method's cells, and ``vary`` lists several values of a field, each a cell of its own.
    ``parts`` is a list of such plans, each over what the file says outside of it. ``seeds`` is a list, or the name of
    a published preset.

    Args:
        name: name of a YAML file in ``configs/sweeps``, or a path to one.
        overrides: nested overrides of the command line, over the file's own.

    Raises:
        UserError: unknown sweep, or any problem of any cell; each problem once.
    """
    plan = merge(sweep_file(name), {key: overrides.pop(key) for key in SWEEP_KEYS if key in overrides})
    parts = [with_seeds(merge(plan, part)) for part in plan.pop("parts", [{}])]
    problems = [unknown_name("sweep key", key, SWEEP_KEYS) for part in parts for key in part if key not in SWEEP_KEYS]
    needed = ("streams", "methods", "seeds")
    problems += [
        f"sweep {name!r}: {key} is {part[key]!r}, expected a list, e.g. {key}=[{part[key]}]."
        for part in parts
        for key in (*needed, "models")
        if part.get(key) and not isinstance(part[key], list)
    ]
    problems += [f"sweep {name!r}: {key} is needed." for part in parts for key in needed if not part.get(key)]
    if problems:
        raise UserError(*dict.fromkeys(problems))
    cells = [cell for part in parts for cell in checked_cells(part, overrides)]
    check_folders(name, cells)
    return cells


def with_seeds(part: Values) -> Values:
    """A plan whose seeds may have been named by a published preset, e.g. ``seeds: rapo_image``.

    Raises:
        UserError: no preset of that name.
    """
    seeds = part.get("seeds")
    return {**part, "seeds": list(order_seeds(seeds))} if isinstance(seeds, str) else part


def sweep_file(name: str) -> Values:
    """The YAML of a sweep by name or path, with its name filled in."""
    folder = config_root() / "sweeps"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        raise UserError(unknown_name("sweep", name, [known.stem for known in folder.glob("*.yaml")]))
    return {"sweep": path.stem, "models": ["tiny"], **read_yaml(path)}


def check_folders(name: str, cells: Sequence[RunConfig]) -> None:
    """Refuse a sweep in which two cells would share a run folder."""
    folders = [cell.folder for cell in cells]
    twice = sorted({str(folder) for folder in folders if folders.count(folder) > 1})
    if twice:
        raise UserError(*(f"sweep {name!r}: {folder} is asked for twice; expected it once." for folder in twice))


def checked_cells(plan: Mapping[str, Any], overrides: Values) -> list[RunConfig]:
    """The cells of a plan in the order seeds, streams, models, methods, settings."""
    cells: list[RunConfig] = []
    problems: list[str] = []
    grid = itertools.product(plan["seeds"], plan["streams"], plan["models"], plan["methods"], settings(plan))
    for seed, stream, model, method, (suffix, values) in grid:
        named = {"run": {"sweep": safe_name(str(plan["sweep"])), "name_suffix": suffix}}
        if len(plan["models"]) > 1:
            named["run"]["name_suffix"] = "-".join(filter(None, (str(model), suffix)))
        own = (plan.get("per_method") or {}).get(method, {})
        try:
            layers = (plan.get("set") or {}, own, values, named, overrides)
            cells.append(build_config(str(stream), str(method), str(model), seed, *layers))
        except UserError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise UserError(*problems)
    return cells


def settings(plan: Mapping[str, Any]) -> list[tuple[str, Values]]:
    """Combinations of the varied fields: a suffix for the run folder, and the nested overrides."""
    vary = plan.get("vary") or {}
    combinations = []
    for values in itertools.product(*vary.values()):
        words = [f"{key}={value}" for key, value in zip(vary, values, strict=True)]
        suffix = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in zip(vary, values, strict=True))
        combinations.append((suffix, parse_overrides(words)))
    return combinations


class QueueReporter:
    """Sends a worker's progress to the process that shows it."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def begin(self, cell: str, activity: str, total: int | None) -> None:
        self.queue.put(("begin", (cell, activity, total)))

    def advance(self, cell: str, units: int = 1, figures: str = "") -> None:
        self.queue.put(("advance", (cell, units, figures)))

    def say(self, text: str) -> None:
        self.queue.put(("say", (text,)))


_QUEUE: Any = None


def _start_worker(queue: Any, threads: int, plugins: Sequence[str]) -> None:
    """Prepare a worker process: its share of the cores, the way its progress takes, and methods from plugin files.

    The plugins come before any cell: a cell's settings are of a plugin's class.
    """
    global _QUEUE
    import torch

    _QUEUE = queue
    multiprocessing.set_start_method("fork", force=True)  # of loading processes; this one was spawned
    quiet_environment()
    quiet_libraries()
    if threads:
        torch.set_num_threads(threads)
    load_plugins(plugins)


def _run_cell(config: RunConfig) -> Failure | None:
    """Run one cell in a worker; what goes wrong comes back as a record, and as a file in the run folder."""
    try:
        run(config, QueueReporter(_QUEUE))
    except UserError as error:
        return Failure(config.cell, str(error))
    except Exception as error:
        if config.folder.is_dir():
            (config.folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return Failure(config.cell, f"{type(error).__name__}: {error} (traceback in {config.folder / 'error.txt'})")
    (config.folder / "error.txt").unlink(missing_ok=True)
    return None


def default_jobs(cells: Sequence[RunConfig]) -> int:
    """How many cells run at once: one per core on a CPU, one on a GPU."""
    import torch

    on_gpu = torch.cuda.is_available() and any(cell.model.device != "cpu" for cell in cells)
    return 1 if on_gpu else max(1, min(len(cells), len(os.sched_getaffinity(0)), 8))


def run_sweep(cells: Sequence[RunConfig], jobs: int | None, bars: Bars) -> list[Failure]:
    """Run every cell that is not done; returns the cells that failed.

    Args:
        cells: of ``load_sweep``.
        jobs: cells at a time; None for ``default_jobs``.
        bars: shows the progress.
    """
    waiting = [cell for cell in cells if not is_done(cell)]
    for _ in range(len(cells) - len(waiting)):
        bars.finished("")
    if not waiting:
        return []
    jobs = jobs or default_jobs(waiting)
    threads = max(1, len(os.sched_getaffinity(0)) // jobs) if jobs > 1 else 0
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        queue = manager.Queue()
        plugins = list(dict.fromkeys(path for cell in waiting for path in cell.run.plugins))
        with ProcessPoolExecutor(jobs, context, _start_worker, (queue, threads, plugins)) as pool:
            futures = {pool.submit(_run_cell, cell): cell for cell in waiting}
            try:
                return _watch(futures, queue, bars)
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                _interrupt_workers(futures)
                raise


def _interrupt_workers(futures: Iterable[Future[Failure | None]], grace_seconds: float = 10.0) -> None:
    """End running cells: a terminal's Ctrl-C reaches the workers too, an interrupt of this process alone does not."""
    _, running = wait(futures, timeout=grace_seconds)
    for child in multiprocessing.active_children() if running else ():
        if child.pid is not None:
            os.kill(child.pid, signal.SIGINT)


def _watch(futures: dict[Future[Failure | None], RunConfig], queue: Any, bars: Bars) -> list[Failure]:
    """Show what the workers tell until all cells have ended."""
    failures = []
    open_futures = set(futures)
    while open_futures:
        done, open_futures = wait(open_futures, timeout=0.2, return_when=FIRST_COMPLETED)
        _relay(queue, bars)
        for future in done:
            bars.finished(futures[future].cell)
            failure = _outcome(future, futures[future])
            if failure is not None:
                failures.append(failure)
                bars.say(f"failed: {failure.cell}: {failure.reason}")
    return failures


def _outcome(future: Future[Failure | None], config: RunConfig) -> Failure | None:
    """What became of a cell; a worker that was killed takes the cells that wait for it along."""
    try:
        return future.result()
    except BrokenProcessPool:
        return Failure(config.cell, "its worker process died (killed, or out of memory); run the same command again")


def _relay(queue: Any, bars: Bars) -> None:
    while True:
        try:
            event, arguments = queue.get_nowait()
        except Empty:
            return
        getattr(bars, event)(*arguments)
