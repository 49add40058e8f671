"""Run two methods on the handwritten digits and compare what they forget: about two minutes on two CPU cores.

    .venv/bin/python examples/compare_two.py
    .venv/bin/python examples/compare_two.py train.updates=40 run.output=elsewhere

Words of the command line are settings, as for ``clrft run``. Runs that are done are not run again.
"""

import sys

from rich.console import Console

import clrft
from clrft.analysis.comparison_tables import comparison_parts
from clrft.analysis.render import to_terminal
from clrft.utils.progress import Bars

METHODS = ("sft", "grpo")
SETTINGS = {"run": {"sweep": "compare_two", "mlflow": False}}


def main(words: list[str]) -> None:
    """Run every method under the same settings, then print the comparison and the matrices behind it."""
    console = Console()
    settings = (SETTINGS, clrft.parse_overrides(words))
    cells = [clrft.build_config("digits_cil", method, "tiny", 1993, *settings) for method in METHODS]
    with Bars(console) as bars:
        runs = [clrft.read_run(clrft.run(cell, bars)) for cell in cells]
    console.print(to_terminal(comparison_parts(clrft.compare(runs, baseline="sft"))))
    for run in runs:
        console.print(run.method)
        console.print(run.matrix.to_table())


if __name__ == "__main__":
    main(sys.argv[1:])
