"""What a run is made of, written before it starts: config, data, model, versions, hardware, carry policy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clrft.config.retired import CONFIG_FILE, saved_settings
from clrft.config.run_config import RunConfig, Values, with_defaults
from clrft.runs.base_identity import UNKNOWN, Base
from clrft.runs.provenance import code_identity, hardware, versions
from clrft.utils.files import write_text_atomic
from clrft.utils.plain import section_of, to_yaml
from eval.task_accuracy import measure_of
from methods.base import AnchorRule, Method
from methods.registry import method_class, plugin_digests
from methods.settings import KAHAN
from task_streams.errors import UserError
from task_streams.scenarios.fingerprint import fingerprints, prompt_fingerprints
from task_streams.types import TaskStream

SCHEMA = 1
# Where a run is kept, and how often, does not change what it computes.
LOCATION_KEYS = ("output", "mlflow", "plugins", "checkpoint_every", "check_memory")


def write_config(config: RunConfig, folder: Path) -> None:
    """Save the resolved configuration in a folder, the run's or what becomes it."""
    write_text_atomic(folder / CONFIG_FILE, to_yaml(config.to_dict()))


def check_same_config(config: RunConfig) -> None:
    """Refuse a run folder that holds a run of other settings, with both values of every one that differs."""
    saved = flat(comparable(with_defaults(saved_settings(config.folder))))
    asked = flat(comparable(config.to_dict()))
    differing = [
        f"{key} is {saved.get(key)!r} there and {asked.get(key)!r} here"
        for key in sorted(saved.keys() | asked.keys())
        if saved.get(key) != asked.get(key)
    ]
    if differing:
        raise UserError(
            f"{config.folder} holds a run of other settings: {'; '.join(differing)}. Choose another run.sweep or "
            "run.name_suffix, or remove the folder."
        )


def check_same_data(folder: Path, saved: Mapping[str, Any], fresh: Mapping[str, Any]) -> None:
    """Refuse to go on with data, prompts, or a probe set of the same name, that are not those the run began with."""
    kinds = (
        ("probes", "probe sets", "restore them or start a new run"),
        ("prompts", "prompts", "restore the file that stream.prompt names, or start a new run"),
        ("data", "stream's data", "restore them, with the version of clrft that it began with, or start a new run"),
    )
    for facts, what, remedy in kinds:
        then, now = saved.get(facts, {}), fresh.get(facts, {})
        names = {*then, *now} if facts == "data" else {*then} & {*now}
        if changed := ", ".join(name for name in sorted(names) if then.get(name) != now.get(name)):
            begun = f"are not those this run began with (fingerprints differ for {changed})"
            raise UserError(f"{folder}: the {what} {begun}; {remedy}.")


def run_manifest(
    config: RunConfig,
    stream: TaskStream,
    model: dict[str, Any],
    method: Method,
    probes: Mapping[str, str] | None = None,
    base: Base = UNKNOWN,
) -> dict[str, Any]:
    """The manifest of a new run; ``probes``: fingerprint of each probe set by its name."""
    return {
        "schema": SCHEMA,
        "stream": config.stream_label,
        "method": config.method_label,
        "seed": config.seed,
        "scenario": stream.scenario,
        "measure": measure_of(stream),
        "tasks": [
            {"index": t.index, "name": t.name, "classes": list(t.classes), "train": len(t.train), "test": len(t.test)}
            for t in stream.tasks
        ],
        "versions": versions(),
        "code": code_identity(),
        "hardware": hardware(),
        "data": fingerprints(stream),
        "prompt_style": stream.tasks[0].style.name,
        "prompts": prompt_fingerprints(stream),
        **({} if stream.feed is None else {"feed": stream.feed}),
        "probes": dict(probes or {}),
        "model": {"label": config.model_label, **model},
        "base": base.facts(),
        "plugins": plugin_digests([method_class(name) for name in (config.method_name, *dict(config.parts))]),
        "method_facts": {"source": method.source, "needs": sorted(method.needs), **method.describe()},
        "carry": carry_policy(config, method, model.get("optimizer")),
        "notes": list(stream.notes),
    }


CARRIED = "carried"
# What becomes of the anchor at a task boundary, by the kind of its rule.
ANCHORS = {
    "previous": "replaced by the policy at the boundary",
    "average": "moved towards the policy at the boundary",
    "first": "the policy after the first task, carried",
    "base": "the base, unchanged",
}


def anchor_policy(rule: AnchorRule) -> str:
    """What becomes of the anchor at a task boundary, in words; equal for equal rules only."""
    return ANCHORS[rule.kind] + (f" (momentum {rule.momentum:g})" if rule.kind == "average" else "")


def carry_policy(config: RunConfig, method: Method, optimizer: str | None) -> dict[str, str]:
    """What crosses a task boundary and what starts anew."""
    compensation = {"weight_compensation": CARRIED} if optimizer == KAHAN else {}
    return {
        "weights": CARRIED,
        **compensation,
        "optimizer_moments": CARRIED if config.train.carry_optimizer else "reset",
        "learning_rate_schedule": "reset",
        "random_state": "seeded anew from the run's seed and the task",
        "method_state": CARRIED,
        "anchor": anchor_policy(method.anchor_rule) if "anchor" in method.needs else "none",
        "reference": "the base, unchanged" if "reference" in method.needs else "none",
    }


def comparable(values: Values) -> Values:
    """Settings that decide what a run computes."""
    location = {key: value for key, value in section_of(values, "run").items() if key not in LOCATION_KEYS}
    return {**values, "run": location}


def flat(nested: Mapping[str, Any], prefix: str = "") -> Values:
    """Nested settings by dotted names."""
    found: Values = {}
    for key, value in nested.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
