"""``clrft plan``: what a sweep takes on a hardware, before anything of it runs."""

import argparse
import json

from rich.console import Console

from clrft.config import parse_overrides
from clrft.plan.cheaper import cheaper
from clrft.plan.hardware import THIS, hardware_of
from clrft.plan.plan import longer, plan_of, target_of, this_target
from clrft.plan.tables import plan_to_json, plan_to_terminal
from clrft.quiet import quiet_libraries
from clrft.sweep import load_sweep
from task_streams.errors import UserError

TWICE = 2.0


def plan_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft plan``: 2 if a cell does not fit into memory.

    Raises:
        UserError: unknown sweep, hardware or setting; data that are not as expected, or whose size nothing tells.
    """
    problems = [
        f"{name}: got {value}, expected a whole number from 1."
        for name, value in (("--jobs", options.jobs), ("--completion-tokens", options.completion_tokens))
        if value is not None and value < 1
    ]
    here = options.hardware == THIS
    if here and options.completion_tokens is not None:
        problems.append(f"--completion-tokens: on {THIS} completions are measured; expected it with another hardware.")
    if problems:
        raise UserError(*problems)
    hardware = None if here else hardware_of(options.hardware)
    cells = load_sweep(options.name, parse_overrides(options.overrides))
    quiet_libraries()
    if hardware is None:
        with Console(stderr=True).status("measuring a little of every kind of cell"):
            target = this_target(cells, options.jobs)
    else:
        target = target_of(hardware, options.jobs, options.completion_tokens)
    plan = plan_of(cells, target)
    remedies = cheaper(plan)
    twice = plan_of(cells, longer(target, TWICE))
    if options.json:
        text = json.dumps(plan_to_json(plan, remedies, twice), indent=2, ensure_ascii=False)
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    else:
        console.print(plan_to_terminal(plan, remedies, twice))
    return 2 if plan.unfit else 0
