"""Run two methods on the handwritten digits and compare what they forget: about two minutes on two CPU cores.

    .venv/bin/python examples/compare_two.py
    .venv/bin/python examples/compare_two.py train.updates=40 run.output=elsewhere

Words of the command line are settings, as for ``clrft run``. Runs that are done are not run again.
"""

import sys

from rich.console import Console

from clrft.analysis.compare import compare
from clrft.analysis.tables import to_terminal
from clrft.config.run_config import build_config, parse_overrides
from clrft.runner.run_cell import run_alone
from clrft.runs.read import read_run
from clrft.utils.progress import Bars

METHODS = ("sft", "grpo")
SETTINGS = {"run": {"sweep": "compare_two", "mlflow": False}}


def main(words: list[str]) -> None:
    """Run every method under the same settings, then print the comparison and the matrices behind it."""
    console = Console()
    cells = [build_config("digits_cil", name, "tiny", 1993, SETTINGS, parse_overrides(words)) for name in METHODS]
    with Bars(console) as bars:
        runs = [read_run(run_alone(cell, bars)) for cell in cells]
    console.print(to_terminal(compare(runs, baseline="sft")))
    for run in runs:
        console.print(run.method)
        console.print(run.matrix.to_table())


if __name__ == "__main__":
    main(sys.argv[1:])
