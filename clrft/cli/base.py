"""``clrft base``: the embedded model, rebuilt or measured."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from clrft.utils.quiet import quiet_libraries

REBUILT = "rebuilt_base"  # where clrft base build puts the model if not told otherwise


def base_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft base``: rebuild the embedded model, or measure one, beside the recorded accuracies."""
    from clrft.base_model.build import SEED, build_base, check_base, recorded_measures
    from clrft.base_model.measure import measure

    quiet_libraries()
    if options.action == "build":
        rebuilt = build_base(Path(options.out or REBUILT), SEED if options.seed is None else options.seed)["measures"]
    else:
        rebuilt = measure(Path(options.out) if options.out else base_folder()).to_json()
    differences = check_base(recorded_measures(), rebuilt)
    table = Table("accuracy", "recorded", "measured", "tolerance", "", title="embedded model")
    for row in differences:
        cells = (f"{number:.3f}" for number in (row.recorded, row.rebuilt, row.tolerance))
        table.add_row(row.name, *cells, "ok" if row.ok else "[red]differs[/red]")
    console.print(table)
    return 0 if all(row.ok for row in differences) else 1


def base_folder() -> Path:
    """Folder of the shipped model."""
    from clrft.base_model import default_model_path

    return default_model_path()
