"""``clrft base``: where the embedded model is rebuilt and measured now."""

import argparse

from rich.console import Console

from task_streams.errors import UserError


def base_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft base``: names the script that rebuilds and measures the embedded model."""
    raise UserError(
        f"clrft base {options.action}: the embedded model is rebuilt and measured by a script of the repository now; "
        f"in a checkout, run: python -m scripts.base_model {options.action}"
    )
