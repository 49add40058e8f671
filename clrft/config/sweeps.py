"""The cells of a sweep: streams x methods x class orders (x settings), each a run's configuration."""

import itertools
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clrft.config.records import Parts, Plan, check_fields
from clrft.config.run_config import RunConfig, Values, build_config, merge, nested_value
from clrft.utils.files import config_root, safe_name
from clrft.utils.plain import read_yaml, section_of
from task_streams.config import WrittenFloat
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
    sweep = f"sweep {name!r}"
    file, asked_for = sweep_file(name), {key: overrides.pop(key) for key in SWEEP_KEYS if key in overrides}
    plan = merge(file, asked_for)
    for one in (file, plan):
        check_fields(sweep, one, Parts)
    known = {method for one in (file, plan) for method in methods_of(one)}  # the file's too: some may be left out
    parts = [merge(plan, part) for part in plan.pop("parts", [{}])]
    problems = [] if parts else [f"{sweep}: parts is empty, expected at least one."]
    for part in parts:
        if isinstance(part.get("seeds"), str):
            part["seeds"] = list(order_seeds(part["seeds"]))
        problems += [unknown_name("sweep key", key, SWEEP_KEYS) for key in part if key not in SWEEP_KEYS]
        problems += [
            f"{sweep}: {key} is {brief(part[key])}, expected a list, e.g. {key}=[{brief(part[key])}]."
            for key in AXES
            if part.get(key) and not isinstance(part[key], list)
        ]
        problems += [f"{sweep}: {key} is needed." for key in ("streams", "methods", "seeds") if not part.get(key)]
        lists = {"models": part.get("models"), **{f"vary.{key}": one for key, one in section_of(part, "vary").items()}}
        problems += [f"{sweep}: {key} is an empty list, expected a value." for key, one in lists.items() if one == []]
        own = section_of(part, "per_method")
        problems += [f"{sweep}: per_method: {unknown_name('method', key, known)}" for key in own if key not in known]
    if problems:
        raise UserError(*dict.fromkeys(problems))
    asked = 0
    for part in parts:
        check_fields(sweep, part, Plan)
        axes = [*((part.get(key) or [None]) for key in AXES), *(part.get("vary") or {}).values()]
        asked += math.prod(map(len, axes))
    if asked > MOST_CELLS:
        raise UserError(f"{sweep}: asks for {asked} runs; expected at most {MOST_CELLS}.")
    cells = [cell for part in parts for cell in checked_cells({**part, "seeds": part["seeds"][:orders]}, overrides)]
    folders = Counter(str(cell.folder) for cell in cells)
    if twice := sorted(folder for folder, times in folders.items() if times > 1):
        raise UserError(*(f"{sweep}: {folder} is asked for twice; expected it once." for folder in twice))
    return cells


def methods_of(plan: Mapping[str, Any]) -> list[str]:
    """The methods that a sweep names, in whichever part; what is no list of them is told where it is checked."""
    given = [part.get("methods") for part in (plan, *plan.get("parts", ()))]
    return [str(one) for methods in given if isinstance(methods, list) for one in methods]


def sweep_file(name: str) -> Values:
    """The YAML of a sweep by name or path, with its name filled in."""
    folder = config_root() / "sweeps"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not os.path.isfile(path):  # for a name of any length
        raise UserError(unknown_name("sweep", name, [known.stem for known in folder.glob("*.yaml")]))
    return {"sweep": path.stem, "models": ["tiny"], **read_yaml(path)}


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
        named = [(key, value) for key, value in zip(vary, values, strict=True)]
        suffix = ",".join(f"{key.rpartition('.')[2]}={in_name(value)}" for key, value in named)
        combinations.append((suffix, merge(*(nested_value(key, value) for key, value in named))))
    return combinations


def in_name(value: Any) -> str:
    """A varied value as it stands in a folder's name: a number as Python writes it, 1e-5 as ever as it is written."""
    plain = isinstance(value, WrittenFloat) and "." not in value.written
    return "null" if value is None else value.written if plain else str(value)
