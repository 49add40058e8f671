"""Rebuild the embedded model, or measure one, beside the recorded accuracies.

python -m scripts.base_model build [--out FOLDER] [--seed SEED]
python -m scripts.base_model check [--out FOLDER]

Exit code 1 where an accuracy is beyond its tolerance, 2 where the input cannot work.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from clrft.base_model import default_model_path
from clrft.utils.quiet import quiet_libraries
from task_streams.errors import UserError


def main(words: list[str] | None = None) -> int:
    """Build or check as the words of the command line say; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.base_model", description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("build", "check"), help="build: pretrain it anew; check: measure a folder")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the model (build: new or empty, default rebuilt_base; check: default the shipped one)",
    )
    parser.add_argument("--seed", type=int, help="seed of the pretraining (default: the shipped model's)")
    options = parser.parse_args(words)
    quiet_libraries()
    from scripts.base_model.build import SEED, build_base, check_base, recorded_measures
    from scripts.base_model.measure import measure

    try:
        if options.action == "build":
            seed = SEED if options.seed is None else options.seed
            rebuilt = build_base(options.out or Path("rebuilt_base"), seed)["measures"]
        else:
            folder = options.out or default_model_path()
            if not (folder / "config.json").is_file():
                raise UserError(f"{folder} holds no model: expected a folder that was built.")
            rebuilt = measure(folder).to_json()
        differences = check_base(recorded_measures(), rebuilt)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = Table("accuracy", "recorded", "measured", "tolerance", "", title="embedded model")
    for row in differences:
        cells = (f"{number:.3f}" for number in (row.recorded, row.rebuilt, row.tolerance))
        table.add_row(row.name, *cells, "ok" if row.ok else "[red]differs[/red]")
    Console().print(table)
    return 0 if all(row.ok for row in differences) else 1


if __name__ == "__main__":
    sys.exit(main())
