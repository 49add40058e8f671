"""``clrft show``: the resolved configuration, every field explained."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clrft.cli.run import chosen_config
from clrft.config.records import Manifest, read_record
from clrft.config.run_config import GROUPS, RunConfig, Values, parse_overrides
from clrft.utils.files import config_root
from clrft.utils.plain import read_yaml
from methods.registry import installed_methods, known_methods
from task_streams import STREAMS
from task_streams.config import field_docs
from task_streams.errors import UserError, unknown_name


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
    from clrft.config.sweeps import load_sweep

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
    console.print(f"memory: {memory_line(config)}", highlight=False, markup=False, soft_wrap=True)


def memory_line(config: RunConfig) -> str:
    """What a run needs of its device's memory: as its manifest has it, else by its settings at their longest."""
    from clrft.memory.available_memory import available_bytes
    from clrft.memory.estimate import allowed_estimate, line, recorded

    path = config.folder / "manifest.json"
    if path.is_file() and (memory := read_record(path, None, Manifest).get("memory")):
        return line(recorded(memory), memory.get("available_bytes"))
    try:
        found = allowed_estimate(config)
    except OSError:
        return f"no estimate without the checkpoint's config; {config.model.path} is not on this machine"
    except UserError as error:
        return f"no estimate for this machine: {error}"
    if found is None:
        return "no estimate for a model of this family"
    estimate, device = found
    return f"{line(estimate.peak, available_bytes(device))}; at most, with prompts as long as train.max_prompt_tokens"
