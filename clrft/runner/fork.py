"""``clrft run --from RUN@taskK method=rapo``: go on from a finished task of a run with another method or setting.

The fork is a run of its own beside the other, with the other's first tasks. Stream, model, class order and what an
entry of the matrix means stay as they are, so that its matrix can be read as one; all else may be changed. Everything
is checked before any work, and before what trains is imported. Here too is what goes on with a run by the name of its
folder (``--resume``). Deliberately absent: forks of the base (``clrft run`` begins there) and of or by methods that do
not learn task by task.
"""

import dataclasses
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clrft.config.records import Manifest, ManifestWithTasks, MethodState, read_record, read_stage
from clrft.config.retired import CONFIG_FILE, in_todays_words, saved_settings
from clrft.config.run_config import (
    LABELLED,
    RunConfig,
    Values,
    config_of,
    load_group,
    merge,
    method_label,
    parse_overrides,
    typed_config,
    with_defaults,
)
from clrft.runner.lineage import check_files, check_lineage, identity_of, remedy
from clrft.runs.differences import FREE, flatten
from clrft.runs.fork_history import Origin, fork_facts, origins_of
from clrft.runs.layout import (
    ANCHOR_FILE,
    METRICS_FILE,
    MOMENTS_FILE,
    STAGE_SCHEMA,
    STATE_FILE,
    WEIGHTS_FOLDER,
    finished_stage,
    stage_folder,
)
from clrft.runs.manifest import anchor_policy, check_same_data, comparable, write_config
from clrft.utils.files import digest, link_or_copy, whole_folder, write_json_atomic
from clrft.utils.plain import plugins_of, read_yaml, section_of, sections_of
from methods import build_method
from methods.base import Method, overrides
from methods.guard import class_of
from methods.registry import load_plugins, method_class, plugin_digests
from task_streams.errors import UserError

if TYPE_CHECKING:
    from clrft.runner.state import Run

CHOSEN = ("stream", "model", "seed")  # what a run is started with and a fork keeps
# What decides which items are asked, and what an answer counts.
KEPT = ("stream.", "model.", "evaluate.", "train.max_completion_tokens")
UNSAFE = re.compile(r"[^A-Za-z0-9._+=,@-]+")  # in names of folders
FIRST_OF_WEIGHTS = "the policy after the first task, from the weights of task_01, then carried"


@dataclass(frozen=True, slots=True)
class Source:
    """A finished stage of a run, to be gone on from in another way."""

    folder: Path  # of the run
    run: str  # sweep and name of the folder
    stage: int  # which stage
    config: Values  # the run's settings, in the words of this version
    manifest: Mapping[str, Any]  # of the run
    digest: str  # of the settings as they were written
    origins: tuple[Origin, ...] = ()  # the runs that it was forked from itself

    def lineage(self) -> tuple[Origin, ...]:
        """Whose stages a fork of it has, the oldest first."""
        identity = identity_of(self.folder, self.stage)
        settings = {name: section_of(self.config, name) for name in ("method", "train")}
        own = Origin(
            run=self.run,
            method=self.manifest["method"],
            stage=self.stage,
            identity=identity,
            config=self.digest,
            settings=settings,
        )
        earlier = [one for one in self.origins if one.stage < self.stage]
        last = next((one for one in self.origins if one.stage >= self.stage), own)
        return (*earlier, dataclasses.replace(last, stage=self.stage, identity=identity))


def parsed_point(point: str) -> tuple[Path, int]:
    """A run's folder and the number of a task, from ``RUN@task3`` or ``RUN@3``.

    Raises:
        UserError: it is of another form, or there is no such run.
    """
    if (Path(point) / CONFIG_FILE).is_file():
        raise UserError(f"fork: {point!r} is a run; expected it with a task, {point}@taskK.")
    name, _, task = point.rpartition("@")
    number = re.fullmatch(r"(?:task_?)?(\d{1,6})", task)
    if not name or number is None:
        form = "expected RUN@taskK, e.g. runs/single/digits_cil-sft-1993@task3"
        raise UserError(f"fork: got {point!r}, {form}.")
    folder = Path(name)
    if not (folder / CONFIG_FILE).is_file():
        beside = [path.parent.name for path in folder.parent.glob(f"*/{CONFIG_FILE}")] if folder.parent.is_dir() else []
        nearest = get_close_matches(folder.name, beside, n=1, cutoff=0.4)
        hint = f" Did you mean {str(folder.parent / nearest[0])!r}?" if nearest else ""
        raise UserError(f"fork: {name!r} holds no run, expected a run's folder.{hint}")
    return folder, int(number[1])


def read_source(folder: Path, stage: int) -> Source:
    """A run's stage, once it is known that it can be gone on from as far as its files tell.

    Raises:
        UserError: it is no stage between the base and the last, not finished, or has no weights.
    """
    manifest = read_record(folder / "manifest.json", None, ManifestWithTasks)
    written = read_yaml(folder / CONFIG_FILE)
    config = with_defaults(in_todays_words(written))
    check_stage_number(folder, stage, manifest)
    done = finished_stage(folder, range(len(manifest["tasks"]) + 1)) or 0
    if stage > done:
        finished = f"finished: {', '.join(map(str, range(1, done + 1)))}" if done else "none is finished"
        raise UserError(f"fork: task {stage} of {folder} is not finished; {finished}.")
    before_last = range(1, min(done, len(manifest["tasks"]) - 1) + 1)
    there = [one for one in before_last if (stage_folder(folder, one) / WEIGHTS_FOLDER).is_dir()]
    if stage not in there:
        known = f"tasks with weights: {', '.join(map(str, there))}" if there else "no task before the last has weights"
        dropped = "run.keep_weights=last keeps those of the newest task only"
        raise UserError(f"fork: task {stage} of {folder} has no weights any more ({dropped}); {known}.")
    for each in range(stage + 1):
        read_stage(stage_folder(folder, each) / METRICS_FILE, STAGE_SCHEMA)  # the fork's matrix will be made of them
    run = "/".join(folder.resolve().parts[-2:])
    return Source(folder, run, stage, config, manifest, digest(comparable(written)), origins_of(folder, manifest))


def check_stage_number(folder: Path, stage: int, manifest: Mapping[str, Any]) -> None:
    """Refuse the base, the last task, what there is not, and a run that did not learn task by task."""
    tasks, method = len(manifest["tasks"]), manifest["method"]
    if not 1 <= stage < tasks:
        reasons = {
            0: "task 0 is the base before any training, where clrft run begins",
            tasks: f"task {tasks} is the last, nothing is left to learn",
        }
        reason = reasons.get(stage, f"the stream of {folder} has {tasks} tasks")
        raise UserError(f"fork: got task {stage}, but {reason}; expected a task from 1 to {tasks - 1}.")
    first, last = stage_folder(folder, 1), stage_folder(folder, tasks)
    if last.is_dir() and not first.is_dir():
        raise UserError(f"fork: {folder} ({method}) learned all tasks at once; it has no state between them.")
    if (first / METRICS_FILE).is_file() and not (first / STATE_FILE).is_file():
        raise UserError(f"fork: {folder} ({method}) trained nothing: each task is the base, where clrft run begins.")


def planned(point: str, words: list[str]) -> tuple[Source, RunConfig]:
    """The stage that is forked and the settings of the fork, all checked that needs no data and no model.

    Raises:
        UserError: with every problem found.
    """
    source = read_source(*parsed_point(point))
    config = forked_config(source, words)
    method = build_method(config.method_name, config.method, config.parts)
    then, now = flatten(source.config), flatten(config.to_dict())
    problems = [
        f"{name} is {then.get(name)} in the run that is forked and {now.get(name)} here; expected the same, for the "
        "matrix of a fork has rows of both."
        for name in sorted(then.keys() | now.keys())
        if name.startswith(KEPT) and name not in FREE and then.get(name) != now.get(name)
    ]
    problems += method_problems(source, config, method)
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
    name_again("fork: the run", {} if "method" in chosen else source.config, overrides)
    values["run"].pop("plugins", None)
    named: Values = {}
    if "method" in chosen:
        named = load_group("method", str(chosen["method"]))
        labels["method"] = method_label(str(chosen["method"]))
        del values["method"]
    # the name: the run it comes from without stream and order, the task, and the settings asked for
    asked = {name: value for name, value in flatten(overrides).items() if not name.startswith("run.")}
    settings = [f"{name.rpartition('.')[2]}={value}" for name, value in sorted(asked.items())]
    own = str(section_of(source.config, "run").get("name_suffix") or "")
    where = "-".join(filter(None, ("from", str(source.manifest["method"]), own)))
    suffix = UNSAFE.sub("_", ",".join([f"{where}@{source.stage}", *settings]))
    place = source.folder.resolve()
    here = {"output": str(place.parent.parent), "sweep": place.parent.name, "name_suffix": suffix}
    return typed_config(merge(values, named, {"run": here}, overrides), labels, seed)


def name_again(what: str, saved: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Load the plugin files that the settings asked for name, and refuse saved settings whose files they do not name.

    Code does not run because a run's folder names it.
    """
    asked, used = plugins_of(overrides), plugins_of(saved)
    if used and not asked:
        files = " ".join(f"--plugin {file}" for file in used)
        raise UserError(f"{what} has methods from files of your own; name them again: {files}")
    load_plugins(asked)


def method_problems(source: Source, config: RunConfig, method: Method) -> list[str]:
    """Sentences about a method that cannot begin with the task after the forked one.

    Among them are those about members that must have learned the first task, and with these settings.
    """
    first = source.stage + 1
    if method.joint:
        return [f"method {method.name!r} learns all tasks at once; expected one that can begin with task {first}."]
    if method.family == "frozen":
        return [f"method {method.name!r} trains nothing; expected one that learns from task {first} on."]
    same = is_same_method(source, config, method)
    then, now = flatten(source.config), flatten(config.to_dict())
    problems = []
    for name, place in places(config).items():
        if not (reason := method_class(name).needs_first_task):
            continue
        if not same:
            problems.append(f"method {name!r} cannot begin with task {first}: {reason}.")
            continue
        problems += [
            f"{key} is {then.get(key)} in the run that is forked and {now[key]} here; expected the same: {reason}."
            for key in now
            if key.startswith(f"{place}.") and then.get(key) != now[key]
        ]
    if anchor_of_fork(source, method) is None:
        problems.append(
            f"method {method.name!r}: its anchor ({method.anchor_rule}) is made of policies that the run that is "
            f"forked did not keep; expected the anchor previous or base, or first where task 1 has its weights."
        )
    return problems


def places(config: RunConfig) -> dict[str, str]:
    """Where the settings of a method and of its parts stand, by their names."""
    return {config.method_name: "method", **{part: f"method.parts.{part}" for part in dict(config.parts)}}


def check_same_fork(source: Source, config: RunConfig) -> None:
    """Refuse to go on in the folder of another fork, or of a run that is none."""
    file = config.folder / "manifest.json"
    if not file.exists():
        return
    there, asked = origins_of(config.folder, read_record(file, None, Manifest)), source.lineage()
    if [one.identity for one in there] != [one.identity for one in asked]:
        found = f"a fork of {there[-1].run}@task{there[-1].stage}" if there else "a run that is no fork"
        raise UserError(
            f"{config.folder} holds {found}; asked for was a fork of {asked[-1].run}@task{asked[-1].stage} as it is "
            "now. Choose another run.sweep or run.name_suffix, or remove the folder."
        )


def is_same_method(source: Source, config: RunConfig, method: Method) -> bool:
    """Whether a stage was learned by this method: parts, code of plugins and settings of its state included."""
    state = read_record(stage_folder(source.folder, source.stage) / STATE_FILE, STAGE_SCHEMA, MethodState)
    kinds = {name: method_class(name) for name in places(config)}
    plugins = plugin_digests(list(kinds.values()))
    then = source.manifest.get("plugins") or {}
    if state["method"] != method.name or sorted(plugins.values()) != sorted(then.values()):
        return False
    before, now = flatten(source.config), flatten(config.to_dict())
    keys = [f"{place}.{key}" for name, place in places(config).items() for key in kinds[name].state_settings]
    return all(before.get(key) == now.get(key) for key in keys)


def anchor_of_fork(source: Source, method: Method) -> str | None:
    """Carry policy of a fork's anchor; None if the source has nothing that it could be made of."""
    if "anchor" not in method.needs:
        return "none"
    rule = method.anchor_rule
    policy = anchor_policy(rule)
    kept = (source.manifest.get("carry") or {}).get("anchor") == policy
    file = stage_folder(source.folder, source.stage) / ANCHOR_FILE
    if rule.told_by_policy(source.stage) or (kept and file.is_file()):
        return policy
    has_first = rule.kind == "first" and (stage_folder(source.folder, 1) / WEIGHTS_FOLDER).is_dir()
    return FIRST_OF_WEIGHTS if has_first else None


def plant(state: "Run", source: Source, fresh: Mapping[str, Any]) -> None:
    """Make a fork's folder: the source's stages, the fork's settings, and a manifest that says where it comes from.

    ``fresh`` is the manifest of a run with these settings that is no fork.

    Raises:
        UserError: the source is not what it was, or not of these data, or its files cannot be linked; nothing is left.
    """
    stages = range(source.stage + 1)
    manifest = fork_manifest(state, source, fresh)
    check_same_data(source.folder, source.manifest, manifest)
    check_lineage(source.folder, stages, source.digest, manifest["data"], state.base.identity, source.origins)
    if manifest["carry"]["anchor"] == FIRST_OF_WEIGHTS:
        check_files(stage_folder(source.folder, 1), remedy(source.folder, 1))
    for partial in state.folder.parent.glob(f".{state.folder.name}.partial-*"):
        shutil.rmtree(partial)  # of a process that was killed: the run's lock is this one's
    try:
        with whole_folder(state.folder) as folder:
            for stage in stages:
                there = stage_folder(source.folder, stage)
                shutil.copytree(there, stage_folder(folder, stage), copy_function=link_or_copy)
            write_config(state.config, folder)
            write_json_atomic(folder / "manifest.json", manifest)
    except OSError as error:
        raise UserError(f"{source.folder}: its task folders cannot be linked into {state.folder} ({error}).") from error
    label = manifest["fork"]["label"]
    state.reporter.say(f"{state.config.cell}: forked from {source.run} after task {source.stage} ({label})")


def fork_manifest(state: "Run", source: Source, fresh: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a new fork: that of a run of its own, what it takes over, and what its reader needs to know."""
    config, method, first = state.config, state.method, source.stage + 1
    anew = f"begun anew with task {first}, then carried"
    same = is_same_method(source, config, method)
    carry = {**fresh["carry"], "anchor": anchor_of_fork(source, method)}
    notes = [*fresh["notes"], f"tasks 0 to {source.stage} were learned and tested in {source.run}, not in this run"]
    if not same:
        carry["method_state"] = anew
        members: tuple[Method, ...] = getattr(method, "members", (method,))
        if stateful := " and ".join(one.name for one in members if overrides(class_of(one), "state_dict")):
            notes.append(f"{stateful}: begun with task {first}, with nothing kept of tasks 1 to {first - 1}")
    moments = stage_folder(source.folder, source.stage) / MOMENTS_FILE
    if config.train.carry_optimizer and not (same and moments.is_file()):
        carry["optimizer_moments"] = anew
    return {**fresh, "carry": carry, "notes": notes, "fork": fork_facts(source.lineage())}


def saved_config(folder: Path, overrides: Mapping[str, Any]) -> RunConfig:
    """The settings of the run in a folder, which may have been moved since; where it lies now counts.

    Args:
        folder: the run's folder.
        overrides: nested; of the settings that do not change what is computed (``run.mlflow``). A plugin file must be
            named again in ``run.plugins``: code is not run because a folder says so.

    Raises:
        UserError: no run is there, or it cannot be gone on with under these settings.
    """
    if not os.path.isfile(folder / CONFIG_FILE):  # for a name of any length
        raise UserError(f"--resume: {str(folder)!r} holds no run; expected a run's folder, with config.yaml in it.")
    values = with_defaults(saved_settings(folder))
    name_again(f"--resume: the run in {folder}", values, overrides)
    values["run"].pop("plugins", None)
    place = folder.resolve()
    here = {"run": {"output": str(place.parent.parent), "sweep": place.parent.name}}
    config = config_of(merge(values, here, overrides))
    if config.folder.resolve() != place:
        raise UserError(f"--resume: the folder is called {place.name!r}, but the run {config.cell!r}; rename it back.")
    return config
