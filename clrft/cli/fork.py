"""``clrft fork``: go on from a finished task of a run with another method or setting."""

import argparse

from rich.console import Console

from clrft.runner.fork import planned


def fork_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft fork``: the fork's folder, the tasks to come, then its matrix and metrics."""
    from clrft.cli.run import end_run
    from clrft.runner.run_cell import run_alone
    from clrft.utils.progress import Bars
    from clrft.utils.quiet import quiet_libraries

    source, config = planned(options.point, options.overrides)
    quiet_libraries()
    with Bars(console) as bars:
        folder = run_alone(config, bars, source)
    end_run(config, folder, console)
    return 0
