"""The cells of a sweep: streams x methods x class orders (x settings), each a run's configuration."""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clrft.config.records import Parts, Plan, check_fields
from clrft.config.run_config import RunConfig, Values, build_config, merge, parse_overrides
from clrft.utils.files import config_root, safe_name
from clrft.utils.plain import read_yaml
from task_streams.errors import UserError, brief, unknown_name
from task_streams.scenarios.order_seeds import order_seeds

AXES = ("seeds", "streams", "models", "methods")
MOST_CELLS = 10_000
SWEEP_KEYS = ("sweep", "streams", "methods", "models", "seeds", "set", "vary", "per_method", "parts")


def load_sweep(name: str, overrides: Values, orders: int | None = None) -> list[RunConfig]:
    """Every cell of a sweep, checked.

    A sweep file names ``streams``, ``methods``, ``models`` and ``seeds``; ``set`` overrides fields in every cell,
    ``per_method`` in one method's cells, and ``vary`` lists several values of a field, each a cell of its own.
    ``parts`` is a list of such plans, each over what the file says outside of it. ``seeds`` is a list, or the name of
    a published preset.

    Args:
        name: name of a YAML file in ``configs/sweeps``, or a path to one.
        overrides: nested overrides of the command line, over the file's own.
        orders: class orders that are looked at, the first ones; None = all.

    Raises:
        UserError: unknown sweep, or any problem of any cell; each problem once.
    """
    plan = merge(sweep_file(name), {key: overrides.pop(key) for key in SWEEP_KEYS if key in overrides})
    check_fields(f"sweep {name!r}", plan, Parts)
    parts = [with_seeds(merge(plan, part)) for part in plan.pop("parts", [{}])]
    problems = [unknown_name("sweep key", key, SWEEP_KEYS) for part in parts for key in part if key not in SWEEP_KEYS]
    needed = ("streams", "methods", "seeds")
    problems += [
        f"sweep {name!r}: {key} is {brief(part[key])}, expected a list, e.g. {key}=[{brief(part[key])}]."
        for part in parts
        for key in (*needed, "models")
        if part.get(key) and not isinstance(part[key], list)
    ]
    problems += [f"sweep {name!r}: {key} is needed." for part in parts for key in needed if not part.get(key)]
    if problems:
        raise UserError(*dict.fromkeys(problems))
    for part in parts:
        check_fields(f"sweep {name!r}", part, Plan)
    check_number(name, parts)
    parts = [{**part, "seeds": part["seeds"][:orders]} for part in parts]
    cells = [cell for part in parts for cell in checked_cells(part, overrides)]
    check_folders(name, cells)
    return cells


def check_number(name: str, parts: Sequence[Values]) -> None:
    """Refuse a sweep of more cells than anybody can have meant."""
    axes = [[*((part.get(key) or [None]) for key in AXES), *(part.get("vary") or {}).values()] for part in parts]
    cells = sum(math.prod(map(len, one)) for one in axes)
    if cells > MOST_CELLS:
        raise UserError(f"sweep {name!r}: asks for {cells} runs; expected at most {MOST_CELLS}.")


def with_seeds(part: Values) -> Values:
    """A plan whose seeds may have been named by a published preset, e.g. ``seeds: rapo_image``.

    Raises:
        UserError: no preset of that name.
    """
    seeds = part.get("seeds")
    return {**part, "seeds": list(order_seeds(seeds))} if isinstance(seeds, str) else part


def sweep_file(name: str) -> Values:
    """The YAML of a sweep by name or path, with its name filled in."""
    folder = config_root() / "sweeps"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not os.path.isfile(path):  # for a name of any length
        raise UserError(unknown_name("sweep", name, [known.stem for known in folder.glob("*.yaml")]))
    return {"sweep": path.stem, "models": ["tiny"], **read_yaml(path)}


def check_folders(name: str, cells: Sequence[RunConfig]) -> None:
    """Refuse a sweep in which two cells would share a run folder."""
    folders = [cell.folder for cell in cells]
    twice = sorted({str(folder) for folder in folders if folders.count(folder) > 1})
    if twice:
        raise UserError(*(f"sweep {name!r}: {folder} is asked for twice; expected it once." for folder in twice))


def checked_cells(plan: Mapping[str, Any], overrides: Values) -> list[RunConfig]:
    """The cells of a plan in the order seeds, streams, models, methods, settings."""
    cells: list[RunConfig] = []
    problems: list[str] = []
    grid = itertools.product(plan["seeds"], plan["streams"], plan["models"], plan["methods"], settings(plan))
    for seed, stream, model, method, (suffix, values) in grid:
        named = {"run": {"sweep": safe_name(str(plan["sweep"])), "name_suffix": suffix}}
        if len(plan["models"]) > 1:
            named["run"]["name_suffix"] = "-".join(filter(None, (str(model), suffix)))
        own = (plan.get("per_method") or {}).get(method, {})
        try:
            layers = (plan.get("set") or {}, own, values, named, overrides)
            cells.append(build_config(str(stream), str(method), str(model), seed, *layers))
        except UserError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise UserError(*problems)
    return cells


def settings(plan: Mapping[str, Any]) -> list[tuple[str, Values]]:
    """Combinations of the varied fields: a suffix for the run folder, and the nested overrides."""
    vary = plan.get("vary") or {}
    combinations = []
    for values in itertools.product(*vary.values()):
        words = [f"{key}={value}" for key, value in zip(vary, values, strict=True)]
        suffix = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in zip(vary, values, strict=True))
        combinations.append((suffix, parse_overrides(words)))
    return combinations
