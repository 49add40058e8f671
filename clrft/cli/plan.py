"""``clrft plan``: what a sweep takes on a hardware, before anything of it runs."""

import argparse
import json
from dataclasses import replace

from rich.console import Console

from clrft.config.run_config import parse_overrides
from clrft.config.sweeps import load_sweep
from clrft.memory.phases import Sharing
from clrft.planning.hardware import THIS, hardware_of
from clrft.utils.console import SafeConsole
from task_streams.errors import UserError


def plan_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft plan``: 2 if a cell does not fit into memory, or cannot be shared as is asked for.

    Raises:
        UserError: unknown sweep, hardware or setting; options that are impossible, alone or there; data that are not as
            expected, or whose size nothing tells.
    """
    here = options.hardware == THIS
    if problems := option_problems(options, here):
        raise UserError(*problems)
    hardware = None if here else hardware_of(options.hardware)
    cells = load_sweep(options.name, parse_overrides(options.words))
    from clrft.planning.advice import suggestions
    from clrft.planning.plan import plan_of, target_of, this_target
    from clrft.planning.tables import plan_to_json, plan_to_terminal
    from clrft.utils.progress import say
    from clrft.utils.quiet import quiet_libraries

    quiet_libraries()
    if hardware is not None:
        sharing = Sharing(options.devices_per_cell, options.split)
        target = target_of(hardware, options.jobs, options.completion_tokens, sharing)
    else:
        with SafeConsole(stderr=True).status("measuring a little of every kind of cell"):
            target = this_target(cells, options.jobs)
    plan = plan_of(cells, target)
    suggested = suggestions(plan)
    twice = plan_of(cells, replace(target, times=2.0))  # completions twice as long
    if options.json:
        say(console, json.dumps(plan_to_json(plan, suggested, twice), indent=2, ensure_ascii=False))
    else:
        console.print(plan_to_terminal(plan, suggested, twice))
    return 2 if plan.unfit or plan.unshareable else 0


def option_problems(options: argparse.Namespace, here: bool) -> list[str]:
    """Sentences about options that are impossible, whatever the hardware; ``here``: this machine is measured."""
    numbers = {
        "--jobs": options.jobs,
        "--completion-tokens": options.completion_tokens,
        "--devices-per-cell": options.devices_per_cell,
    }
    problems = [
        f"{name}: got {value}, expected a whole number from 1."
        for name, value in numbers.items()
        if value is not None and value < 1
    ]
    if here and options.completion_tokens is not None:
        problems.append(f"--completion-tokens: on {THIS} completions are measured; expected it with another hardware.")
    if here and (options.devices_per_cell > 1 or options.split):
        problems.append(
            f"--devices-per-cell, --split: on {THIS} cells of one process are measured; expected them with another "
            "hardware, e.g. --hardware h100x8."
        )
    elif options.split and options.devices_per_cell == 1:
        problems.append("--split: got 1 device per cell, and weights are split among several; expected 2 or more.")
    return problems
