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

from clrft.config.records import LIST, MANIFEST, MANIFEST_OTHERS, METHOD_STATE, read_record, read_stage
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
from clrft.runner.lineage import check_lineage, check_stage, identity_of
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
from clrft.runs.manifest import CARRIED, anchor_policy, check_same_data, comparable, run_manifest, write_config
from clrft.utils.files import digest, link_or_copy, whole_folder, write_json_atomic
from clrft.utils.plain import plugins_of, read_yaml, section_of, sections_of
from methods import build_method
from methods.base import Method, overrides
from methods.guard import class_of
from methods.model.config import describe_model
from methods.registry import load_plugins, method_class, plugin_digests
from task_streams.errors import UserError
from task_streams.probes.sets import fingerprints_of

if TYPE_CHECKING:
    from clrft.runner.state import Run

FORM = "expected RUN@taskK, e.g. runs/single/digits_cil-sft-1993@task3"


@dataclass(frozen=True, slots=True)
class Source:
    """A finished stage of a run, to be gone on from in another way.

    Attributes:
        folder: the run's folder.
        stage: which stage.
        config: the run's settings, in the words of this version.
        manifest: the run's manifest.
        digest: of the settings as they were written.
        origins: the runs that it was forked from itself.
    """

    folder: Path
    stage: int
    config: Values
    manifest: Mapping[str, Any]
    digest: str
    origins: tuple[Origin, ...] = ()

    @property
    def run(self) -> str:
        """Sweep and name of the run's folder."""
        place = self.folder.resolve()
        return f"{place.parent.name}/{place.name}"

    def stage_folder(self, stage: int | None = None) -> Path:
        """Folder of a stage, by default the one that is forked."""
        return stage_folder(self.folder, self.stage if stage is None else stage)

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
    if (Path(point) / "config.yaml").is_file():
        raise UserError(f"fork: {point!r} is a run; expected it with a task, {point}@taskK.")
    name, _, task = point.rpartition("@")
    number = re.fullmatch(r"(?:task_?)?(\d{1,6})", task)
    if not name or number is None:
        raise UserError(f"fork: got {point!r}, {FORM}.")
    folder = Path(name)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"fork: {name!r} holds no run, expected a run's folder.{nearest_run(folder)}")
    return folder, int(number[1])


def nearest_run(folder: Path) -> str:
    """A hint at the run beside a folder whose name is nearest to its own; empty if there is none."""
    beside = [path.parent.name for path in folder.parent.glob("*/config.yaml")] if folder.parent.is_dir() else []
    nearest = get_close_matches(folder.name, beside, n=1, cutoff=0.4)
    return f" Did you mean {str(folder.parent / nearest[0])!r}?" if nearest else ""


def read_source(folder: Path, stage: int) -> Source:
    """A run's stage, once it is known that it can be gone on from as far as its files tell.

    Raises:
        UserError: it is no stage between the base and the last, not finished, or has no weights.
    """
    manifest = read_record(folder / "manifest.json", None, {**MANIFEST, "tasks": LIST}, MANIFEST_OTHERS)
    written = read_yaml(folder / CONFIG_FILE)
    config = with_defaults(in_todays_words(written))
    tasks = len(manifest["tasks"])
    check_stage_number(folder, stage, tasks)
    check_trained(folder, manifest["method"], tasks)
    done = finished_stage(folder, range(tasks + 1)) or 0
    if stage > done:
        finished = f"finished: {listed(range(1, done + 1))}" if done else "none is finished"
        raise UserError(f"fork: task {stage} of {folder} is not finished; {finished}.")
    check_has_weights(folder, stage, range(1, min(done, tasks - 1) + 1))
    for each in range(stage + 1):
        read_stage(stage_folder(folder, each) / METRICS_FILE, STAGE_SCHEMA)  # the fork's matrix will be made of them
    return Source(folder, stage, config, manifest, digest(comparable(written)), origins_of(folder, manifest))


def check_stage_number(folder: Path, stage: int, tasks: int) -> None:
    """Refuse the base, the last task, and what there is not."""
    if 1 <= stage < tasks:
        return
    reasons = {
        0: "task 0 is the base before any training, where clrft run begins",
        tasks: f"task {tasks} is the last, nothing is left to learn",
    }
    reason = reasons.get(stage, f"the stream of {folder} has {tasks} tasks")
    raise UserError(f"fork: got task {stage}, but {reason}; expected a task from 1 to {tasks - 1}.")


def check_trained(folder: Path, method: str, tasks: int) -> None:
    """Refuse a run that did not learn task by task."""
    first, last = stage_folder(folder, 1), stage_folder(folder, tasks)
    if last.is_dir() and not first.is_dir():
        raise UserError(f"fork: {folder} ({method}) learned all tasks at once; it has no state between them.")
    if (first / METRICS_FILE).is_file() and not (first / STATE_FILE).is_file():
        raise UserError(f"fork: {folder} ({method}) trained nothing: each task is the base, where clrft run begins.")


def check_has_weights(folder: Path, stage: int, finished: range) -> None:
    """Refuse a stage whose weights were dropped."""
    there = [one for one in finished if (stage_folder(folder, one) / WEIGHTS_FOLDER).is_dir()]
    if stage not in there:
        found = f"tasks with weights: {listed(there)}" if there else "no task before the last has weights"
        dropped = "run.keep_weights=last keeps those of the newest task only"
        raise UserError(f"fork: task {stage} of {folder} has no weights any more ({dropped}); {found}.")


def listed(numbers: range | list[int]) -> str:
    """Numbers in words: ``1, 2, 3``."""
    return ", ".join(map(str, numbers))


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


FIRST_OF_WEIGHTS = "the policy after the first task, from the weights of task_01, then carried"


def is_same_method(source: Source, config: RunConfig, method: Method) -> bool:
    """Whether a stage was learned by this method: parts, code of plugins and settings of its state included."""
    state = read_record(source.stage_folder() / STATE_FILE, STAGE_SCHEMA, METHOD_STATE)
    plugins = plugin_digests([method_class(name) for name in (config.method_name, *dict(config.parts))])
    then = source.manifest.get("plugins") or {}
    if state["method"] != method.name or sorted(plugins.values()) != sorted(then.values()):
        return False
    before, now = flatten(source.config), flatten(config.to_dict())
    places = {config.method_name: "method", **{part: f"method.parts.{part}" for part in dict(config.parts)}}
    keys = [f"{place}.{key}" for name, place in places.items() for key in method_class(name).state_settings]
    return all(before.get(key) == now.get(key) for key in keys)


def anchor_of_fork(source: Source, method: Method) -> str | None:
    """Carry policy of a fork's anchor; None if the source has nothing that it could be made of."""
    if "anchor" not in method.needs:
        return "none"
    rule = method.anchor_rule
    policy = anchor_policy(rule)
    kept = (source.manifest.get("carry") or {}).get("anchor") == policy
    if rule.told_by_policy(source.stage) or (kept and (source.stage_folder() / ANCHOR_FILE).is_file()):
        return policy
    has_first = rule.kind == "first" and (source.stage_folder(1) / WEIGHTS_FOLDER).is_dir()
    return FIRST_OF_WEIGHTS if has_first else None


def plant(state: "Run", source: Source) -> None:
    """Make a fork's folder: the source's stages, the fork's settings, and a manifest that says where it comes from.

    Raises:
        UserError: the source is not what it was, or not of these data, or its files cannot be linked; nothing is left.
    """
    stages = range(source.stage + 1)
    manifest = fork_manifest(state, source)
    check_same_data(source.folder, source.manifest, manifest)
    check_lineage(source.folder, stages, source.digest, manifest["data"], source.origins)
    if manifest["carry"]["anchor"] == FIRST_OF_WEIGHTS:
        check_stage(source.folder, 1)
    for partial in state.folder.parent.glob(f".{state.folder.name}.partial-*"):
        shutil.rmtree(partial)  # of a process that was killed: the run's lock is this one's
    try:
        with whole_folder(state.folder) as folder:
            for stage in stages:
                shutil.copytree(source.stage_folder(stage), stage_folder(folder, stage), copy_function=link_or_copy)
            write_config(state.config, folder)
            write_json_atomic(folder / "manifest.json", manifest)
    except OSError as error:
        raise UserError(f"{source.folder}: its task folders cannot be linked into {state.folder} ({error}).") from error
    label = manifest["fork"]["label"]
    state.reporter.say(f"{state.config.cell}: forked from {source.run} after task {source.stage} ({label})")


def fork_manifest(state: "Run", source: Source) -> dict[str, Any]:
    """The manifest of a new fork."""
    config, method = state.config, state.method
    manifest = run_manifest(config, state.stream, describe_model(state.policy), method, fingerprints_of(state.probes))
    manifest["memory"] = state.memory
    anew = f"begun anew with task {source.stage + 1}, then carried"
    same = is_same_method(source, config, method)
    if not same:
        manifest["carry"]["method_state"] = anew
    if config.train.carry_optimizer and not (same and (source.stage_folder() / MOMENTS_FILE).is_file()):
        manifest["carry"]["optimizer_moments"] = anew
    manifest["carry"]["anchor"] = anchor_of_fork(source, method)
    manifest["notes"] += fork_notes(source, method, same)
    manifest["fork"] = fork_facts(source.lineage())
    return manifest


def fork_notes(source: Source, method: Method, same: bool) -> list[str]:
    """What a reader of a fork's results needs to know."""
    members: tuple[Method, ...] = getattr(method, "members", (method,))
    stateful = [one.name for one in members if overrides(class_of(one), "state_dict")]
    notes = [f"tasks 0 to {source.stage} were learned and tested in {source.run}, not in this run"]
    if stateful and not same:
        first = source.stage + 1
        notes.append(f"{' and '.join(stateful)}: begun with task {first}, with nothing kept of tasks 1 to {first - 1}")
    return notes


def is_fork_point(state: "Run", stage: int) -> bool:
    """Whether a stage is the last that a fork has of another run."""
    return bool(state.origins) and state.origins[-1].stage == stage


def check_has_forked(state: "Run", done: int | None) -> None:
    """Refuse a fork that has lost a stage of the run it was forked from: this run's method did not learn it.

    Raises:
        UserError: names the stage and the run.
    """
    origin = next((one for one in state.origins if done is None or one.stage > done), None)
    if origin is not None:
        lost = stage_folder(state.folder, 0 if done is None else done + 1)
        raise UserError(
            f"{lost} is missing or not whole; it is that of {origin.run}. Restore it, or remove {state.folder} and "
            "fork again."
        )


def take_over(state: "Run", folder: Path, stage: int) -> None:
    """Bring a fork to where its first new task begins, by its carry policy: weights always, all else as it says."""
    from clrft.runner.checkpoint import read_anchor, read_learned

    if state.anchors is not None and state.carry["anchor"] == FIRST_OF_WEIGHTS:
        check_stage(state.folder, 1, state.origins[0])
        state.policy.load_weights(stage_folder(state.folder, 1) / WEIGHTS_FOLDER)
        state.anchors.keep()
    elif state.anchors is not None:
        read_anchor(folder, state.anchors, stage)
    if state.carry["method_state"] == CARRIED:
        state.moments = read_learned(folder, state.policy, state.method, stage)
    else:
        state.policy.load_weights(folder / WEIGHTS_FOLDER)


def saved_config(folder: Path, overrides: Mapping[str, Any]) -> RunConfig:
    """The settings of the run in a folder, which may have been moved since; where it lies now counts.

    Args:
        folder: the run's folder.
        overrides: nested; of the settings that do not change what is computed (``run.mlflow``). A plugin file must be
            named again in ``run.plugins``: code is not run because a folder says so.

    Raises:
        UserError: no run is there, or it cannot be gone on with under these settings.
    """
    if not os.path.isfile(folder / "config.yaml"):  # for a name of any length
        raise UserError(f"--resume: {str(folder)!r} holds no run; expected a run's folder, with config.yaml in it.")
    values = with_defaults(saved_settings(folder))
    used = plugins_of(values)
    values["run"].pop("plugins", None)
    asked = plugins_of(overrides)
    if used and not asked:
        files = " ".join(f"--plugin {file}" for file in used)
        raise UserError(f"--resume: the run in {folder} has methods from files of your own; name them again: {files}")
    load_plugins(asked)
    place = folder.resolve()
    here = {"run": {"output": str(place.parent.parent), "sweep": place.parent.name}}
    config = config_of(merge(values, here, overrides))
    if config.folder.resolve() != place:
        raise UserError(f"--resume: the folder is called {place.name!r}, but the run {config.cell!r}; rename it back.")
    return config
