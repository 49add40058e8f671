"""The probe sets of a run, read from their files."""

from collections.abc import Sequence
from pathlib import Path

from clrft.utils.files import safe_name
from task_streams.errors import UserError
from task_streams.probes.sets import ProbeSet, read_probe_set

BUILT_IN = "printed_glyphs"  # the probe that the suite makes itself


def read_probes(files: Sequence[str]) -> tuple[ProbeSet, ...]:
    """The probe sets of some files.

    Raises:
        UserError: everything that is wrong with any of them; two of one name, or one of the built-in probe's.
    """
    problems: list[str] = []
    sets: dict[str, ProbeSet] = {}
    for file in files:
        try:
            one = read_probe_set(Path(file).expanduser())
            safe_name(one.name)
        except UserError as error:
            problems += error.problems
            continue
        if one.name in {*sets, BUILT_IN}:
            problems.append(f"evaluate.probes: another probe is named {one.name!r} already; rename {file}.")
        sets[one.name] = one
    if problems:
        raise UserError(*problems)
    return tuple(sets.values())
