"""``clrft run``: one cell, then its matrix and metrics."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from clrft.config.run_config import RunConfig, build_config, parse_overrides
from clrft.utils.quiet import quiet_libraries
from eval.metrics import METRICS, metric_of
from methods.registry import known_methods
from task_streams import STREAMS
from task_streams.errors import UserError

if TYPE_CHECKING:
    from eval.metrics import Value

SELECTORS = ("stream", "method", "model", "seed")


def run_one(options: argparse.Namespace, console: Console) -> int:
    """``clrft run``: one cell, from the base, from where it stopped or from a task of another run; then its figures."""
    if options.resume is not None and options.start is not None:
        raise UserError("--resume goes on with a run, and --from begins another; expected one of them.")
    source = None
    if options.resume is None and options.start is None:
        config = chosen_config(options.overrides)
    # what trains is imported when all names, keys and values are known to be right
    from clrft.runner.fork import planned, saved_config
    from clrft.runner.run import run_alone
    from clrft.utils.progress import Bars

    if options.resume is not None:
        config = saved_config(Path(options.resume), parse_overrides(options.overrides))
    elif options.start is not None:
        source, config = planned(options.start, options.overrides)
    quiet_libraries()
    with Bars(console) as bars:
        folder = run_alone(config, bars, source)
    end_run(config, folder, console)
    return 0


def end_run(config: RunConfig, folder: Path, console: Console) -> None:
    """Close a run's sweep in MLflow and show its results; of several processes the first does."""
    from clrft.cli.sweep import close_sweep
    from methods.distributed import ranks

    if ranks.is_rank0():
        close_sweep(config, [])
        show_results(config, folder, console)


def show_results(config: RunConfig, folder: Path, console: Console) -> None:
    """A finished run's matrix and metrics, and where it is."""
    from clrft.runs.read import read_run

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
