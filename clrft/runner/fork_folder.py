"""A fork's folder: the first stages of another run, as they are, under a manifest that says so; and going on from them.

The stages are hard links (copies on another file system): a task folder is never written again. The folder appears
whole or not at all, so a fork is begun by its manifest and nothing else. What of the other run crosses is in the
manifest's carry policy, which decides how the first new task begins, also after a restart. Deliberately absent: which
settings a fork may change (``clrft/runner/fork.py``).
"""

import shutil
from pathlib import Path
from typing import Any

from clrft.config.records import METHOD_STATE, read_record
from clrft.config.run_config import RunConfig
from clrft.runner.checkpoint import SCHEMA, read_anchor, read_learned
from clrft.runner.fork_source import Source
from clrft.runner.lineage import check_lineage, check_stage
from clrft.runner.state import Run
from clrft.runs.differences import flatten
from clrft.runs.fork_history import fork_facts
from clrft.runs.layout import ANCHOR_FILE, MOMENTS_FILE, STATE_FILE, WEIGHTS_FOLDER, stage_folder
from clrft.runs.manifest import CARRIED, anchor_policy, check_same_data, run_manifest, write_config
from clrft.utils.files import link_or_copy, whole_folder, write_json_atomic
from methods.base import Method, overrides
from methods.guard import class_of
from methods.model.anchor import told_by_policy
from methods.model.config import describe_model
from methods.registry import method_class, plugin_digests
from task_streams.errors import UserError
from task_streams.probes.sets import fingerprints_of

FIRST_OF_WEIGHTS = "the policy after the first task, from the weights of task_01, then carried"


def is_same_method(source: Source, config: RunConfig, method: Method) -> bool:
    """Whether a stage was learned by this method: parts, code of plugins and settings of its state included."""
    state = read_record(source.stage_folder() / STATE_FILE, SCHEMA, METHOD_STATE)
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
    if told_by_policy(rule, source.stage) or (kept and (source.stage_folder() / ANCHOR_FILE).is_file()):
        return policy
    has_first = rule.kind == "first" and (source.stage_folder(1) / WEIGHTS_FOLDER).is_dir()
    return FIRST_OF_WEIGHTS if has_first else None


def plant(state: Run, source: Source) -> None:
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


def fork_manifest(state: Run, source: Source) -> dict[str, Any]:
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


def is_fork_point(state: Run, stage: int) -> bool:
    """Whether a stage is the last that a fork has of another run."""
    return bool(state.origins) and state.origins[-1].stage == stage


def check_has_forked(state: Run, done: int | None) -> None:
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


def take_over(state: Run, folder: Path, stage: int) -> None:
    """Bring a fork to where its first new task begins, by its carry policy: weights always, all else as it says."""
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
