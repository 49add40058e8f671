"""``clrft fork RUN@taskK method=rapo``: go on from a finished task of a run with another method or setting.

The fork is a run of its own beside the other, with the other's first tasks (``clrft/runner/fork_folder.py``). Stream,
model, class order and what a cell of the matrix means stay as they are, so that its matrix can be read as one; all else
may be changed. Everything is checked before any work. Deliberately absent: forks of the base (``clrft run`` begins
there) and of or by methods that do not learn task by task.
"""

import re
from collections.abc import Mapping
from typing import Any

from clrft.config.records import MANIFEST, MANIFEST_OTHERS, read_record
from clrft.config.run_config import (
    LABELLED,
    RunConfig,
    Values,
    load_group,
    merge,
    method_label,
    parse_overrides,
    typed_config,
)
from clrft.runner.fork_folder import anchor_of_fork, is_same_method
from clrft.runner.fork_source import Source, parsed_point, read_source
from clrft.runs.differences import FREE, flatten
from clrft.runs.fork_history import origins_of
from clrft.utils.plain import plugins_of, section_of, sections_of
from methods import build_method
from methods.base import Method
from methods.registry import load_plugins, method_class
from task_streams.errors import UserError

CHOSEN = ("stream", "model", "seed")  # what a run is started with and a fork keeps
# What decides which items are asked, and what an answer counts.
KEPT = ("stream.", "model.", "evaluate.", "train.max_completion_tokens")
UNSAFE = re.compile(r"[^A-Za-z0-9._+=,@-]+")  # in names of folders


def planned(point: str, words: list[str]) -> tuple[Source, RunConfig]:
    """The stage that is forked and the settings of the fork, all checked that needs no data and no model.

    Raises:
        UserError: with every problem found.
    """
    source = read_source(*parsed_point(point))
    config = forked_config(source, words)
    method = build_method(config.method_name, config.method, config.parts)
    problems = [*kept_problems(source, config), *method_problems(source, config, method)]
    if problems:
        raise UserError(*problems)
    check_same_fork(source, config)
    return source, config


def forked_config(source: Source, words: list[str]) -> RunConfig:
    """The settings of a fork: the source's, with those over them that the words ask for.

    Raises:
        UserError: with every problem found.
    """
    keys = (*CHOSEN, "method")
    chosen = parse_overrides([word for word in words if word.partition("=")[0] in keys])
    overrides = parse_overrides([word for word in words if word.partition("=")[0] not in keys])
    values: Values = sections_of(source.config)
    labels = {name: str(values[name].pop("label", name)) for name in LABELLED}
    seed = source.config.get("seed")
    stated = {**labels, "seed": seed}
    if problems := [
        f"{key}: got {chosen[key]!r}, but the run that is forked has {stated[key]!r}; expected no other."
        for key in CHOSEN
        if key in chosen and chosen[key] != stated[key]
    ]:
        raise UserError(*problems)
    use_plugins(source, overrides, "method" in chosen)
    values["run"].pop("plugins", None)
    named: Values = {}
    if "method" in chosen:
        named = load_group("method", str(chosen["method"]))
        labels["method"] = method_label(str(chosen["method"]))
        del values["method"]
    place = source.folder.resolve()
    here = {"output": str(place.parent.parent), "sweep": place.parent.name, "name_suffix": suffix(source, overrides)}
    return typed_config(merge(values, named, {"run": here}, overrides), labels, seed)


def use_plugins(source: Source, overrides: Mapping[str, Any], other_method: bool) -> None:
    """Load the plugin files that are named anew; code does not run because the source's folder names it.

    Raises:
        UserError: the source's method goes on and comes from files that are not named again.
    """
    asked, used = plugins_of(overrides), plugins_of(source.config)
    load_plugins(asked)
    if used and not asked and not other_method:
        files = " ".join(f"--plugin {file}" for file in used)
        raise UserError(f"fork: the run has methods from files of your own; name them again: {files}")


def suffix(source: Source, overrides: Mapping[str, Any]) -> str:
    """Name suffix of a fork: the run it comes from without stream and order, the task, and the settings asked for."""
    own = str(section_of(source.config, "run").get("name_suffix") or "")
    asked = {name: value for name, value in flatten(overrides).items() if not name.startswith("run.")}
    settings = [f"{name.rpartition('.')[2]}={value}" for name, value in sorted(asked.items())]
    where = "-".join(filter(None, ("from", str(source.manifest["method"]), own)))
    return UNSAFE.sub("_", ",".join([f"{where}@{source.stage}", *settings]))


def kept_problems(source: Source, config: RunConfig) -> list[str]:
    """Sentences about settings that a fork may not change, and does."""
    then, now = flatten(source.config), flatten(config.to_dict())
    return [
        f"{name} is {then.get(name)} in the run that is forked and {now.get(name)} here; expected the same, for the "
        "matrix of a fork has rows of both."
        for name in sorted(then.keys() | now.keys())
        if name.startswith(KEPT) and name not in FREE and then.get(name) != now.get(name)
    ]


def method_problems(source: Source, config: RunConfig, method: Method) -> list[str]:
    """Sentences about a method that cannot begin with the task after the forked one."""
    first = source.stage + 1
    if method.joint:
        return [f"method {method.name!r} learns all tasks at once; expected one that can begin with task {first}."]
    if method.family == "frozen":
        return [f"method {method.name!r} trains nothing; expected one that learns from task {first} on."]
    problems = late_problems(source, config, method)
    if anchor_of_fork(source, method) is None:
        problems.append(
            f"method {method.name!r}: its anchor ({method.anchor_rule}) is made of policies that the run that is "
            f"forked did not keep; expected the anchor previous or base, or first where task 1 has its weights."
        )
    return problems


def late_problems(source: Source, config: RunConfig, method: Method) -> list[str]:
    """Sentences about members that must have learned the first task, and with these settings."""
    same = is_same_method(source, config, method)
    then, now = flatten(source.config), flatten(config.to_dict())
    problems = []
    for name in (config.method_name, *dict(config.parts)):
        if not (reason := method_class(name).needs_first_task):
            continue
        prefix = "method." if name == config.method_name else f"method.parts.{name}."
        changed = [key for key in now if key.startswith(prefix) and then.get(key) != now[key]]
        if not same:
            problems.append(f"method {name!r} cannot begin with task {source.stage + 1}: {reason}.")
        problems += [
            f"{key} is {then.get(key)} in the run that is forked and {now[key]} here; expected the same: {reason}."
            for key in (changed if same else ())
        ]
    return problems


def check_same_fork(source: Source, config: RunConfig) -> None:
    """Refuse to go on in the folder of another fork, or of a run that is none.

    Raises:
        UserError: what is there, and what was asked for.
    """
    file = config.folder / "manifest.json"
    if not file.exists():
        return
    there, asked = origins_of(config.folder, read_record(file, None, MANIFEST, MANIFEST_OTHERS)), source.lineage()
    if [one.identity for one in there] != [one.identity for one in asked]:
        found = f"a fork of {there[-1].run}@task{there[-1].stage}" if there else "a run that is no fork"
        raise UserError(
            f"{config.folder} holds {found}; asked for was a fork of {asked[-1].run}@task{asked[-1].stage} as it is "
            "now. Choose another run.sweep or run.name_suffix, or remove the folder."
        )
