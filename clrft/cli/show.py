"""``clrft show``: the resolved configuration, every field explained."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clrft.cli.run import chosen_config
from clrft.config.records import Manifest, read_record
from clrft.config.run_config import GROUPS, RunConfig, parse_overrides
from clrft.utils.files import config_root
from clrft.utils.plain import SECTIONS, read_yaml
from clrft.utils.progress import say
from methods.registry import installed_methods, known_methods
from task_streams import STREAMS
from task_streams.config import field_docs
from task_streams.errors import UserError, unknown_name

KINDS = ("streams", "methods", "models", "sweeps")  # of configs, in which a name is looked for in this order


def show_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft show``: a named config, or a run's resolved configuration; of a sweep its cells, one line each."""
    names = [word for word in options.words if "=" not in word]
    words = [word for word in options.words if "=" in word]
    if len(names) > 1:
        raise UserError(f"show takes one name, got {', '.join(names)}.")
    if names:
        group = config_group(names[0])
        if group == "sweeps":
            from clrft.config.sweeps import load_sweep

            say(console, *(cell.folder for cell in load_sweep(names[0], parse_overrides(words))))
            return 0
        words.append(f"{ {folder: key for key, folder in GROUPS.items()}[group] }={names[0]}")
    given = {word.partition("=")[0] for word in words}
    words += [f"{key}={name}" for key, name in (("stream", "digits_cil"), ("method", "rapo")) if key not in given]
    show_run(chosen_config(words), console)
    return 0


def config_group(name: str) -> str:
    """The folder of ``configs/`` that a name belongs to, or that a YAML file by path would by what it says."""
    if name.endswith((".yaml", ".yml")):
        values = read_yaml(Path(name))
        if "methods" in values or "parts" in values:
            return "sweeps"
        for key, group in GROUPS.items():
            if key in values:
                return group
        raise UserError(f"{name}: expected a sweep (methods, seeds, …) or one of the sections {', '.join(GROUPS)}.")
    known = {group: {path.stem for path in (config_root() / group).glob("*.yaml")} for group in KINDS}
    known["streams"] |= set(STREAMS)
    known["methods"] |= {*known_methods(), *installed_methods()}
    for group, names in known.items():
        if name in names:
            return group
    raise UserError(unknown_name("config", name, set().union(*known.values())))


def show_run(config: RunConfig, console: Console) -> None:
    """Every field of a run with its value and its meaning."""
    console.print(Text.assemble((str(config.folder), "bold"), f"  seed {config.seed}"), highlight=False)
    for name in SECTIONS:
        section = getattr(config, name)
        title = Text(f"{name} {getattr(config, f'{name}_label', '')}".strip())
        table = Table("key", "value", "meaning", title=title, title_justify="left")
        for field, doc in field_docs(type(section)).items():
            value = getattr(section, field)
            text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            table.add_row(*map(Text, (f"{name}.{field}", text, doc)))
        console.print(table)
    say(console, f"memory: {memory_line(config)}")


def memory_line(config: RunConfig) -> str:
    """What a run needs of its device's memory: as its manifest has it, else by its settings at their longest."""
    from clrft.memory.available_memory import available_bytes
    from clrft.memory.estimate import Estimate, allowed_estimate

    path = config.folder / "manifest.json"
    if path.is_file() and (memory := read_record(path, None, Manifest).get("memory")):
        return Estimate.recorded(memory).line(memory.get("available_bytes"))
    try:
        found = allowed_estimate(config)
    except OSError:
        return f"no estimate without the checkpoint's config; {config.model.path} is not on this machine"
    except UserError as error:
        return f"no estimate for this machine: {error}"
    if found is None:
        return "no estimate for a model of this family"
    estimate, device = found
    return f"{estimate.line(available_bytes(device))}; at most, with prompts as long as train.max_prompt_tokens"
