"""``clrft run``: one cell, then its matrix and metrics."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from clrft.config.run_config import RunConfig, build_config, parse_overrides, written
from clrft.runner.fork import planned, saved_config
from clrft.runs.answers import answers_told
from clrft.runs.read import read_run
from clrft.utils.progress import Bars, say
from clrft.utils.quiet import quiet_libraries
from eval.metrics import METRICS, metric_of
from methods.registry import known_methods
from task_streams import STREAMS
from task_streams.errors import UserError

SELECTORS = ("stream", "method", "model", "seed")


def run_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft run``: one cell, from the base, from where it stopped or from a task of another run; then its figures."""
    if options.resume is not None and options.start is not None:
        raise UserError("--resume goes on with a run, and --from begins another; expected one of them.")
    source = None
    if options.resume is not None:
        config = saved_config(Path(options.resume), parse_overrides(options.words))
    elif options.start is not None:
        source, config = planned(options.start, options.words)
    else:
        config = chosen_config(options.words)
    # what trains is imported when all names, keys and values are known to be right
    from clrft.cli.sweep import close_sweep
    from clrft.runner.run import run_alone
    from methods.distributed import ranks

    quiet_libraries()
    with Bars(console) as bars:
        folder = run_alone(config, bars, source)
    if ranks.is_rank0():
        close_sweep(config, [])
        show_results(config, folder, console)
    return 0


def show_results(config: RunConfig, folder: Path, console: Console) -> None:
    """A finished run's matrix, what its answers were, and metrics, in units or with the reason why there is none."""
    record = read_run(folder)
    console.print(record.matrix.to_table())
    answers, sentences = answers_told(record)
    if answers is not None:
        console.print(answers)
    say(console, *sentences)
    table = Table("metric", "value", "definition")
    for key, value in record.metrics.items():
        name = key.partition("/")[0]
        if name not in config.evaluate.metrics:
            continue
        unit = metric_of(key).unit
        if value.value is None:
            text = f"undefined: {value.reason}"
        elif unit == "%":
            text = f"{round(100 * value.value, 2) + 0.0:.2f} %"  # + 0.0: no minus before a zero
        else:
            text = f"{value.value:.4f} {unit}"
        table.add_row(key, Text(text), escape(METRICS[name].definition))
    console.print(table)
    say(console, f"run: {folder}")


def chosen_config(words: list[str]) -> RunConfig:
    """The configuration that the words of ``clrft run`` ask for."""
    selecting = [word for word in words if word.partition("=")[0] in SELECTORS]
    chosen = parse_overrides(selecting)
    overrides = parse_overrides([word for word in words if word not in selecting])
    missing = [
        f"{key}: a value is needed, e.g. {key}={example}. Known: {', '.join(sorted(names))}."
        for key, example, names in (("stream", "digits_cil", STREAMS), ("method", "rapo", known_methods()))
        if not written(chosen.get(key))
    ]
    if missing:
        raise UserError(*missing)
    names = {key: written(value) for key, value in chosen.items() if key != "seed"}
    if not names.get("model", "tiny"):
        raise UserError("model: a value is needed, e.g. model=tiny; or leave the word out.")
    return build_config(
        names["stream"], names["method"], names.get("model", "tiny"), chosen.get("seed", 1993), overrides
    )
