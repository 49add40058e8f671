"""In what runs differ besides their class order: settings, and facts of the manifest.

Deliberately absent: a judgement whether a difference matters (``clrft.analysis.mixing``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from clrft.runs.manifest import flat
from clrft.runs.read import RunRecord

# Where a run is kept and what it is called: no settings.
_PLACE_AND_NAME = ("seed", "run.", "stream.label", "method.label", "model.label")
# Settings that change time, memory, or what is written down, but no cell of a matrix.
FREE = (
    "stream.root", "model.anchor_memory", "model.gradient_checkpointing", "train.accumulation", "train.share_prefix",
    "train.kept_prefixes", "train.cuda_graphs", "train.deterministic", "train.workers",
    "evaluate.batch_size", "evaluate.metrics", "evaluate.future",
    "evaluate.final_list", "evaluate.drift_prompts",
)  # fmt: skip
_FACTS = ("data", "probes", "prompts", "versions", "plugins")  # of the manifest, each by name
_MODEL_FACTS = ("model_type", "dtype", "attention", "device")  # numbers of parameters are a method's own
FLOOR = "zero_shot"  # the frozen base: what is known without learning
FORK, NO_FORK = "fork", "-"  # name and value that stand beside settings


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names with their values as text."""
    return {name: str(value) for name, value in flat(nested, prefix).items()}


def differing_settings(runs: Sequence[RunRecord]) -> list[str]:
    """Dotted names of the settings in which runs differ; one that repeats each run's seed is none."""
    many = [settings(run) for run in runs]
    own_seeds = [str(run.seed) for run in runs]
    return [name for name in _differing(many) if [one.get(name) for one in many] != own_seeds]


def forks(runs: Sequence[RunRecord]) -> list[str]:
    """What each run was forked from, ``NO_FORK`` for none: method and task, and what tells it from its like.

    Its like are runs of a method of the same name, forked after the same task: told apart by the settings in which
    they differ.
    """
    facts = [run.manifest.get("fork") or {"label": NO_FORK, "origins": []} for run in runs]
    # settings of all runs that each was forked from, numbered where there are several
    learned: list[dict[str, str]] = []
    for fact in facts:
        parts = enumerate(origin["settings"] for origin in fact["origins"])
        each = [flatten(part, f"{number}." if number else "") for number, part in parts]
        learned.append({key: one[key] for one in each for key in one if not key.endswith("method.label")})
    found = []
    for fact, own in zip(facts, learned, strict=True):
        like = [other for one, other in zip(facts, learned, strict=True) if one["label"] == fact["label"]]
        told = ", ".join(f"{name}={own.get(name, '-')}" for name in _differing(like))
        found.append(f"{fact['label']} ({told})" if told else str(fact["label"]))
    return found


def unlike(runs: Sequence[RunRecord]) -> list[str]:
    """Settings of ``FREE`` in which runs differ."""
    return [name for name in _differing([settings(run) for run in runs]) if name in FREE]


def facts(run: RunRecord) -> dict[str, str]:
    """What a manifest says of measure, data, prompts, versions, code, plugins, model and base, by dotted name.

    Manifests of before there were several measures name none; these runs have the one that their matrix is of.
    """
    found = {"measure": str(run.manifest.get("measure", run.matrix.measure))}
    found |= flatten({part: run.manifest[part] for part in _FACTS if run.manifest.get(part)})
    code, model = (run.manifest.get(part) or {} for part in ("code", "model"))
    base = run.manifest.get("base") or {}
    found |= {f"base.{name}": base[name] for name in ("sha256", "commit") if name in base}
    if "source_sha256" in code:
        found["code.source_sha256"] = str(code["source_sha256"])
    found |= {f"model.{name}": str(model[name]) for name in _MODEL_FACTS if name in model}
    if run.method != FLOOR and "dtype" in model:  # whether weights keep all of an update, or each is rounded
        weights = model.get("weights", model["dtype"])  # one type for both, before there was a choice
        wide = weights == "float32" or (run.config.get("model") or {}).get("adapter") == "lora"
        found["model.updates"] = "kept" if wide or model.get("optimizer", "adamw") != "adamw" else "rounded"
    return found


def unrecorded(runs: Sequence[RunRecord]) -> dict[str, int]:
    """Kinds of facts that some runs record and others do not, with the number of those."""
    told = [{name.partition(".")[0] for name in facts(run)} for run in runs]
    counts = {kind: sum(kind not in one for one in told) for kind in sorted(set().union(*told) - {"plugins", "probes"})}
    return {kind: count for kind, count in counts.items() if count}


def settings(run: RunRecord) -> dict[str, str]:
    """A run's settings by dotted name, without what only names it or says where it is kept."""
    return {name: value for name, value in flatten(run.config).items() if not name.startswith(_PLACE_AND_NAME)}


def _differing(many: Sequence[Mapping[str, str]]) -> list[str]:
    """Names with more than one value; a method's own setting that some lack was not there yet when they were run."""
    names = dict.fromkeys(name for one in many for name in one)
    return [
        name
        for name in names
        if len({one.get(name) for one in many if name in one or not name.startswith("method.")}) > 1
    ]
