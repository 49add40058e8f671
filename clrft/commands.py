"""What each command of the command line does. Heavy packages are imported by the commands that need them."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from clrft.config import GROUPS, RunConfig, Values, build_config, parse_overrides
from clrft.files import config_root
from clrft.plain import read_yaml
from clrft.quiet import quiet_libraries
from clrft.typed import field_docs
from eval.metrics import METRICS, metric_of
from methods.registry import installed_methods, known_methods
from methods.shaping import overrides
from task_streams import STREAMS
from task_streams.errors import UserError, unknown_name
from task_streams.presets import ORDER_SEEDS

if TYPE_CHECKING:
    from clrft.compare import Comparison
    from clrft.runs import FoundRuns
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
    close_sweep(config, [])
    show_results(config, folder, console)
    return 0


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
    from clrft.progress import Bars
    from clrft.sweep import load_sweep, run_sweep
    from clrft.tracking_store import prepare_store

    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs: got {options.jobs}, expected a whole number from 1.")
    cells = load_sweep(options.name, parse_overrides(options.overrides))
    folder = cells[0].folder.parent
    if any(cell.run.mlflow for cell in cells):
        prepare_store(Path(cells[0].run.output))
    with Bars(console, len(cells)) as bars:
        failures = run_sweep(cells, options.jobs, bars)
    if len(failures) < len(cells):
        paths: list[Path] = []
        note = ""
        try:
            found = find([folder])
            paths = write_and_print(found, None, folder / "comparison", console, kinds=True)
            written, note = sweep_report(found, folder)
            paths.append(written)
        finally:  # also where the cells must not be compared: the sweep has ended
            close_sweep(cells[0], paths, note)
    say_where(cells[0], folder, console)
    for failure in failures:
        console.print(f"failed: {failure.cell}: {failure.reason}", highlight=False, markup=False, soft_wrap=True)
    return 1 if failures else 0


def sweep_report(found: "FoundRuns", folder: Path) -> tuple[Path, str]:
    """Write a sweep's report; returns its folder, and the answer in Markdown."""
    from clrft.compare import compare
    from clrft.files import REPORT
    from clrft.report.command import report_of
    from clrft.report.headline import headline_note
    from clrft.report.parts import Subject

    report_of(found, [folder], folder / REPORT)
    return folder / REPORT, headline_note(Subject(folder.name, compare(found.runs)))


def close_sweep(config: RunConfig, paths: list[Path], note: str = "") -> None:
    """Attach a sweep's tables, figures, report and answer to its parent run in MLflow, and close it."""
    from clrft.tracking import Tracker

    Tracker(Path(config.run.output), config.run.sweep, enabled=config.run.mlflow).finish(paths, note=note)


def say_where(config: RunConfig, folder: Path, console: Console) -> None:
    """Tell where pictures, files and the MLflow store are."""
    lines = [f"report: {folder / 'report' / 'index.html'}   (opens in a browser)"]
    lines += [f"pictures and tables: {folder / 'comparison'}", f"runs: {folder}"]
    if config.run.mlflow:
        from clrft.tracking_store import redacted_uri, tracking_uri

        store = redacted_uri(tracking_uri(Path(config.run.output)))
        lines.append(f"MLflow store: {store}   (clrft ui --output {config.run.output} opens it)")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def compare_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft compare``: tables and figures of the runs in some folders."""
    paths = [Path(path) for path in options.paths]
    from clrft.files import check_writable, comparison_folder

    output = comparison_folder(paths[0], options.output)
    found = find(paths)
    check_writable(output)
    written = write_and_print(found, options.baseline, output, console, options.mix)
    for path in written:
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)
    return 0


def find(paths: list[Path]) -> "FoundRuns":
    """Complete runs in some folders."""
    from clrft.runs import find_runs

    return find_runs(paths)


def write_and_print(
    found: "FoundRuns",
    baseline: str | None,
    output: Path,
    console: Console,
    mix: Sequence[str] = (),
    kinds: bool = False,
) -> list[Path]:
    """Compare runs, print the comparison, write its tables and figures; ``kinds``: those of forgetting too.

    The kinds are read from every single answer, 20 ms or more a run: a comparison of many runs leaves them out.
    """
    from clrft.compare import compare
    from clrft.figures import write_comparison
    from clrft.tables import to_terminal

    comparison = compare(found.runs, baseline, mix)
    console.print(to_terminal(comparison))
    for left_out in found.left_out:
        console.print(f"left out: {left_out}", highlight=False, markup=False, soft_wrap=True)
    written = write_comparison(comparison, found.runs, output)
    return written + (write_kinds_beside(comparison, output) if kinds else [])


def write_kinds_beside(comparison: "Comparison", output: Path) -> list[Path]:
    """Tables and figures of the kinds of forgetting beside those of a comparison; none where no answer can be read."""
    from clrft.kind_figures import write_kinds
    from clrft.kinds import kind_report

    report = kind_report(comparison.groups)
    return write_kinds(report, output) if report.groups else []


def list_streams() -> Table:
    """Streams that can be built, and their configs."""
    table = Table("stream", "presets", "what it is", "licence", title="streams")
    presets: dict[str, list[str]] = {}
    for path in sorted((config_root() / "streams").glob("*.yaml")):
        presets.setdefault(str(read_yaml(path)["stream"]["name"]), []).append(path.stem)
    for name, spec in STREAMS.items():
        others = [preset for preset in presets.get(name, []) if preset != name]
        table.add_row(*map(escape, (name, ", ".join(others), spec.summary, spec.licence)))
    return table


def first_line(kind: type) -> str:
    """What a class says of itself in a line; empty if it says nothing."""
    return (kind.__doc__ or "").strip().partition("\n")[0]


def list_methods() -> Table:
    """Methods that can be run."""
    table = Table("method", "family", "what it does", "source", title="methods")
    for name, method in known_methods().items():
        table.add_row(*map(escape, (name, method.family, first_line(method), method.source)))
    return table


def list_shapers() -> Table:
    """Parts that shape the rewards of reinforcement learners; ``grpo+NAME`` joins one."""
    table = Table("shaper", "what it does", "source", title="reward shapers")
    for name, method in known_methods().items():
        if method.family == "part" and overrides(method, "shape_rewards"):
            table.add_row(*map(escape, (name, first_line(method), method.source)))
    return table


def list_models() -> Table:
    """Models that have a config; any other checkpoint goes by model.path."""
    return config_table("models")


def list_metrics() -> Table:
    """Metrics by their one name."""
    table = Table("metric", "title", "definition", "better", title="metrics")
    for key, metric in METRICS.items():
        table.add_row(key, metric.title, escape(metric.definition), "higher" if metric.higher_is_better else "lower")
    return table


def list_sweeps() -> Table:
    """Sweeps that have a config."""
    return config_table("sweeps")


def list_configs() -> Table:
    """Every config file."""
    table = Table("config", "what it is", title="configs")
    for folder in sorted(path for path in config_root().iterdir() if path.is_dir()):
        for path in sorted(folder.glob("*.yaml")):
            table.add_row(f"{folder.name}/{path.stem}", first_comment(path))
    return table


def config_table(folder: str) -> Table:
    """The configs of one folder with their first comment."""
    table = Table("name", "what it is", title=folder)
    for path in sorted((config_root() / folder).glob("*.yaml")):
        table.add_row(path.stem, first_comment(path))
    return table


def first_comment(path: Path) -> str:
    """The comment on a YAML file's first line."""
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    return line.removeprefix("#").strip() if line.startswith("#") else ""


def list_seeds() -> Table:
    """Published class orders that a sweep may name instead of listing seeds."""
    table = Table("preset", "seeds", title="seeds")
    for name, seeds in ORDER_SEEDS.items():
        table.add_row(name, ", ".join(map(str, seeds)))
    return table


LISTS: dict[str, Callable[[], Table]] = {
    "configs": list_configs,
    "methods": list_methods,
    "metrics": list_metrics,
    "models": list_models,
    "seeds": list_seeds,
    "shapers": list_shapers,
    "streams": list_streams,
    "sweeps": list_sweeps,
}


def list_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft list``."""
    console.print(LISTS[options.what]())
    return 0


def show_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft show``: a named config, or a run's resolved configuration."""
    names = [word for word in options.words if "=" not in word]
    words = [word for word in options.words if "=" in word]
    if len(names) > 1:
        raise UserError(f"show takes one name, got {', '.join(names)}.")
    if names:
        group = config_group(names[0])
        if group == "sweeps":
            return show_sweep(names[0], parse_overrides(words), console)
        words.append(f"{ {folder: key for key, folder in GROUPS.items()}[group] }={names[0]}")
    given = {word.partition("=")[0] for word in words}
    words += [
        default for key, default in (("stream", "stream=digits_cil"), ("method", "method=rapo")) if key not in given
    ]
    show_run(chosen_config(words), console)
    return 0


def config_group(name: str) -> str:
    """The folder of ``configs/`` that a name belongs to, or that a YAML file by path would."""
    if name.endswith((".yaml", ".yml")):
        return group_of_file(name)
    methods = {*known_methods(), *installed_methods()}
    registered = {"streams": set(STREAMS), "methods": methods, "models": set[str](), "sweeps": set[str]()}
    known = {
        group: names | {p.stem for p in (config_root() / group).glob("*.yaml")} for group, names in registered.items()
    }
    for group, group_names in known.items():
        if name in group_names:
            return group
    raise UserError(unknown_name("config", name, set().union(*known.values())))


def group_of_file(path: str) -> str:
    """What kind of config a YAML file is, by what it says."""
    values = read_yaml(Path(path))
    if "methods" in values or "parts" in values:
        return "sweeps"
    for key, group in GROUPS.items():
        if key in values:
            return group
    raise UserError(f"{path}: expected a sweep (methods, seeds, …) or one of the sections {', '.join(GROUPS)}.")


def show_sweep(name: str, overrides: Values, console: Console) -> int:
    """The cells of a sweep, one line each."""
    from clrft.sweep import load_sweep

    for cell in load_sweep(name, overrides):
        console.print(f"{cell.folder}", highlight=False, markup=False, soft_wrap=True)
    return 0


def show_run(config: RunConfig, console: Console) -> None:
    """Every field of a run with its value and its meaning."""
    console.print(Text.assemble((str(config.folder), "bold"), f"  seed {config.seed}"), highlight=False)
    sections: dict[str, Any] = {
        "stream": config.stream,
        "method": config.method,
        "model": config.model,
        "train": config.train,
        "evaluate": config.evaluate,
        "run": config.run,
    }
    for name, section in sections.items():
        docs = field_docs(type(section))
        table = Table(
            "key",
            "value",
            "meaning",
            title=Text(f"{name} {getattr(config, f'{name}_label', '')}".strip()),
            title_justify="left",
        )
        for field, doc in docs.items():
            value = getattr(section, field)
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            table.add_row(*map(Text, (f"{name}.{field}", text, doc)))
        console.print(table)


def ui_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft ui``: MLflow's own interface on loopback."""
    from clrft.tracking_ui import serve_ui

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
