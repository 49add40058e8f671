"""``clrft list``: what there is to choose from."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clrft.utils.files import config_root
from clrft.utils.plain import read_yaml
from eval.communities import COMMUNITIES
from eval.metrics import METRICS
from methods.base import Method, overrides
from methods.registry import known_methods
from task_streams import STREAMS
from task_streams.prompt_style import built_in_styles, prompt_style
from task_streams.scenarios.order_seeds import ORDER_SEEDS

TITLES = {"shapers": "reward shapers", "prompts": "prompt styles"}  # where the list's name says too little


def list_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft list``: one of the lists as a table."""
    caption = f"by the names of others: clrft compare RUNS --metrics NAME, of {', '.join(COMMUNITIES)}"
    columns, rows = columns_and_rows(options.what)
    table = Table(*columns, title=TITLES.get(options.what, options.what))
    if options.what == "metrics":
        table.caption, table.caption_justify = caption, "left"
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
    return 0


def columns_and_rows(what: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """What a list holds."""
    root, methods = config_root(), known_methods()
    columns: tuple[str, ...]
    match what:
        case "streams":
            presets: dict[str, list[str]] = {name: [] for name in STREAMS}
            for path in sorted((root / "streams").glob("*.yaml")):
                name = str(read_yaml(path)["stream"]["name"])
                presets[name] += [path.stem] if path.stem != name else []
            columns = ("stream", "presets", "what it is", "licence")
            return columns, [(k, ", ".join(presets[k]), spec.summary, spec.licence) for k, spec in STREAMS.items()]
        case "methods":
            columns = ("method", "family", "what it does", "source")
            return columns, [(k, one.family, first_line(one), one.source) for k, one in methods.items()]
        case "shapers":  # parts that shape the rewards of reinforcement learners; ``grpo+NAME`` joins one
            parts = {k: one for k, one in methods.items() if one.family == "part" and overrides(one, "shape_rewards")}
            columns = ("shaper", "what it does", "source")
            return columns, [(k, first_line(one), one.source) for k, one in parts.items()]
        case "metrics":
            better = {True: "higher", False: "lower"}
            columns = ("metric", "title", "definition", "better")
            return columns, [(k, m.title, m.definition, better[m.higher_is_better]) for k, m in METRICS.items()]
        case "seeds":  # published class orders that a sweep may name instead of listing seeds
            return ("preset", "seeds"), [(name, ", ".join(map(str, seeds))) for name, seeds in ORDER_SEEDS.items()]
        case "prompts":
            columns = ("prompt", "kinds", "what it is")  # the kinds of question that a style has words for
            styles = built_in_styles().items()
            return columns, [(k, ", ".join(prompt_style(k).wordings), first_comment(path)) for k, path in styles]
        case "configs":
            paths = sorted(root.glob("*/*.yaml"), key=lambda path: (path.parent.name, path))
            return ("config", "what it is"), [(f"{one.parent.name}/{one.stem}", first_comment(one)) for one in paths]
        case _:  # models and sweeps that have a config
            return ("name", "what it is"), [(p.stem, first_comment(p)) for p in sorted((root / what).glob("*.yaml"))]


def first_line(method: type[Method]) -> str:
    """What a method says of itself in a line; empty if it says nothing."""
    return (method.__doc__ or "").strip().partition("\n")[0]


def first_comment(path: Path) -> str:
    """The comment on a YAML file's first line."""
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    return line.removeprefix("#").strip() if line.startswith("#") else ""
