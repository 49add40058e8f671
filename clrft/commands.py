"""``clrft run``, ``sweep``, ``ui`` and ``base``. Heavy packages are imported by the commands that need them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from clrft.config import RunConfig, build_config, parse_overrides
from clrft.quiet import quiet_libraries
from eval.metrics import METRICS, metric_of
from methods.registry import known_methods
from task_streams import STREAMS
from task_streams.errors import UserError

if TYPE_CHECKING:
    from clrft.report.parts import Subject
    from eval.metrics import Value

REBUILT = "rebuilt_base"  # where clrft base build puts the model if not told otherwise
SELECTORS = ("stream", "method", "model", "seed")


def run_one(options: argparse.Namespace, console: Console) -> int:
    """``clrft run``: one cell, then its matrix and metrics."""
    from clrft.resume import saved_config

    if options.resume is None:
        config = chosen_config(options.overrides)
    else:
        config = saved_config(Path(options.resume), parse_overrides(options.overrides))
    from clrft.alone import run_alone
    from clrft.progress import Bars

    quiet_libraries()
    with Bars(console) as bars:
        folder = run_alone(config, bars)
    end_run(config, folder, console)
    return 0


def end_run(config: RunConfig, folder: Path, console: Console) -> None:
    """Close a run's sweep in MLflow and show its results; of several processes the first does."""
    from methods.processes import ranks

    if ranks.is_first():
        close_sweep(config, [])
        show_results(config, folder, console)


def show_results(config: RunConfig, folder: Path, console: Console) -> None:
    """A finished run's matrix and metrics, and where it is."""
    from clrft.runs import read_run

    record = read_run(folder)
    console.print(record.matrix.to_table())
    table = Table("metric", "value", "definition")
    for key, value in record.metrics.items():
        name = key.partition("/")[0]
        if name in config.evaluate.metrics:
            table.add_row(key, Text(shown(value, key)), escape(METRICS[name].definition))
    console.print(table)
    console.print(f"run: {folder}", highlight=False, markup=False, soft_wrap=True)


def shown(value: "Value", key: str) -> str:
    """A metric in its unit, or the reason why there is none."""
    if value.value is None:
        return f"undefined: {value.reason}"
    unit = metric_of(key).unit
    return f"{round(100 * value.value, 2) + 0.0:.2f} %" if unit == "%" else f"{value.value:.4f} {unit}"


def chosen_config(words: list[str]) -> RunConfig:
    """The configuration that the words of ``clrft run`` ask for."""
    selecting = [word for word in words if word.partition("=")[0] in SELECTORS]
    chosen = parse_overrides(selecting)
    overrides = parse_overrides([word for word in words if word not in selecting])
    missing = [
        f"{key}: a value is needed, e.g. {key}={example}. Known: {', '.join(sorted(names))}."
        for key, example, names in (("stream", "digits_cil", STREAMS), ("method", "rapo", known_methods()))
        if key not in chosen
    ]
    if missing:
        raise UserError(*missing)
    names = {key: str(value) for key, value in chosen.items() if key != "seed"}
    return build_config(
        names["stream"], names["method"], names.get("model", "tiny"), chosen.get("seed", 1993), overrides
    )


def run_sweep_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft sweep``: every cell that is not done, then the comparison and the report."""
    from clrft.places import Place, check_place
    from clrft.progress import Bars
    from clrft.runs import find_runs
    from clrft.study.compare_command import write_and_print
    from clrft.sweep import load_sweep, run_sweep
    from clrft.tracking.store import prepare_store

    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs: got {options.jobs}, expected a whole number from 1.")
    place = Place(options.on, options.threads)
    cells = load_sweep(options.name, parse_overrides(options.overrides))
    folder = cells[0].folder.parent
    check_place(place)
    if any(cell.run.mlflow for cell in cells):
        prepare_store(Path(cells[0].run.output))
    with Bars(console, len(cells)) as bars:
        failures = run_sweep(cells, options.jobs, bars, place)
    if len(failures) < len(cells):
        paths: list[Path] = []
        note = ""
        try:
            found = find_runs([folder])
            subject, paths = write_and_print(found, None, folder / "comparison", console, kinds=True)
            written, note = reported(subject, folder)
            paths.append(written)
        finally:  # also where the cells must not be compared: the sweep has ended
            close_sweep(cells[0], paths, note)
    say_where(cells[0], folder, console)
    for failure in failures:
        console.print(f"failed: {failure.cell}: {failure.reason}", highlight=False, markup=False, soft_wrap=True)
    return 1 if failures else 0


def reported(subject: "Subject", folder: Path) -> tuple[Path, str]:
    """Write the report of a sweep that was compared; returns its folder, and the answer in Markdown."""
    from clrft.files import REPORT
    from clrft.report.command import title_of
    from clrft.report.headline import headline_note
    from clrft.report.page import write_report

    write_report(subject, title_of([folder]), folder / REPORT)
    return folder / REPORT, headline_note(subject)


def close_sweep(config: RunConfig, paths: list[Path], note: str = "") -> None:
    """Attach a sweep's tables, figures, report and answer to its parent run in MLflow, and close it."""
    from clrft.tracking.runs import Tracker

    Tracker(Path(config.run.output), config.run.sweep, enabled=config.run.mlflow).finish(paths, note=note)


def say_where(config: RunConfig, folder: Path, console: Console) -> None:
    """Tell where pictures, files and the MLflow store are."""
    lines = [f"report: {folder / 'report' / 'index.html'}   (opens in a browser)"]
    lines += [f"pictures and tables: {folder / 'comparison'}", f"runs: {folder}"]
    if config.run.mlflow:
        from clrft.tracking.store import redacted_uri, tracking_uri

        store = redacted_uri(tracking_uri(Path(config.run.output)))
        lines.append(f"MLflow store: {store}   (clrft ui --output {config.run.output} opens it)")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def ui_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft ui``: MLflow's own interface on loopback."""
    from clrft.tracking.ui import serve_ui

    console.print(f"MLflow at http://127.0.0.1:{options.port} (Ctrl-C stops it)", highlight=False)
    return serve_ui(Path(options.output), options.port)


def base_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft base``: rebuild the embedded model, or measure one, beside the recorded accuracies."""
    from clrft.base.build import SEED, build_base, check_base, recorded_measures
    from clrft.base.measure import measure

    quiet_libraries()
    if options.action == "build":
        rebuilt = build_base(Path(options.out or REBUILT), SEED if options.seed is None else options.seed)["measures"]
    else:
        rebuilt = measure(Path(options.out) if options.out else base_folder()).to_json()
    differences = check_base(recorded_measures(), rebuilt)
    table = Table("accuracy", "recorded", "measured", "tolerance", "", title="embedded model")
    for row in differences:
        cells = (f"{number:.3f}" for number in (row.recorded, row.rebuilt, row.tolerance))
        table.add_row(row.name, *cells, "ok" if row.ok else "[red]differs[/red]")
    console.print(table)
    return 0 if all(row.ok for row in differences) else 1


def base_folder() -> Path:
    """Folder of the shipped model."""
    from clrft.base import default_model_path

    return default_model_path()
