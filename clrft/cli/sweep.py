"""``clrft sweep``: every cell that is not done, then the comparison and the report."""

import argparse
from pathlib import Path

from rich.console import Console

from clrft.config.run_config import RunConfig, parse_overrides
from clrft.config.sweeps import load_sweep
from clrft.sweep.executors import ExecutorChoice, check_executor
from clrft.utils.progress import Bars, say
from task_streams.errors import UserError


def sweep_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft sweep``: every cell that is not done, then the comparison and the report."""
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs: got {options.jobs}, expected a whole number from 1.")
    cells = load_sweep(options.name, parse_overrides(options.words))
    folder, root = cells[0].folder.parent, Path(cells[0].run.output)
    executor = ExecutorChoice(options.on, options.threads)
    check_executor(executor)
    # what trains is imported when all names, keys and values are known to be right
    from clrft.analysis.compare import compare
    from clrft.report.comparison import reported, write_and_print
    from clrft.runs.read import find_runs
    from clrft.sweep.run_sweep import run_sweep
    from clrft.tracking.store import prepare_store, redacted_uri, tracking_uri

    if any(cell.run.mlflow for cell in cells):
        prepare_store(root)
    with Bars(console, len(cells)) as bars:
        failures = run_sweep(cells, options.jobs, bars, executor)
    if len(failures) < len(cells):
        paths: list[Path] = []
        note = ""
        try:
            found = find_runs([folder])
            comparison, place = compare(found.runs), folder / "comparison"
            subject, paths = write_and_print(comparison, found.left_out, place, console, taxonomy=True)
            written, note = reported(subject, folder)
            paths.append(written)
        finally:  # also where the cells must not be compared: the sweep has ended
            close_sweep(cells[0], paths, note)
    say(console, f"report: {folder / 'report' / 'index.html'}   (opens in a browser)")
    say(console, f"pictures and tables: {folder / 'comparison'}", f"runs: {folder}")
    if cells[0].run.mlflow:
        store = redacted_uri(tracking_uri(root))
        say(console, f"MLflow store: {store}   (clrft ui --output {cells[0].run.output} opens it)")
    say(console, *(f"failed: {failure.cell}: {failure.reason}" for failure in failures))
    return 1 if failures else 0


def close_sweep(config: RunConfig, paths: list[Path], note: str = "") -> None:
    """Attach a sweep's tables, figures, report and answer to its parent run in MLflow, and close it."""
    from clrft.tracking.runs import Tracker

    Tracker(Path(config.run.output), config.run.sweep, enabled=config.run.mlflow).finish(paths, note=note)
