"""``clrft list``: what there is to choose from."""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clrft.utils.files import config_root
from clrft.utils.plain import read_yaml
from eval.communities import COMMUNITIES
from eval.metrics import METRICS
from methods.base import overrides
from methods.registry import known_methods
from task_streams import STREAMS
from task_streams.prompt_style import built_in_styles, prompt_style
from task_streams.scenarios.order_seeds import ORDER_SEEDS


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
    others = f"by the names of others: clrft compare RUNS --metrics NAME, of {', '.join(COMMUNITIES)}"
    table = Table("metric", "title", "definition", "better", title="metrics", caption=others, caption_justify="left")
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


def list_prompts() -> Table:
    """Prompt styles that go by name, and for which kinds of question they have words."""
    table = Table("prompt", "kinds", "what it is", title="prompt styles")
    for name, path in built_in_styles().items():
        table.add_row(name, ", ".join(prompt_style(name).wordings), first_comment(path))
    return table


LISTS: dict[str, Callable[[], Table]] = {
    "configs": list_configs,
    "methods": list_methods,
    "metrics": list_metrics,
    "models": list_models,
    "prompts": list_prompts,
    "seeds": list_seeds,
    "shapers": list_shapers,
    "streams": list_streams,
    "sweeps": list_sweeps,
}


def list_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft list``."""
    console.print(LISTS[options.what]())
    return 0
