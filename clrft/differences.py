"""In what runs differ besides their class order: settings, data, model and versions.

Deliberately absent: a judgement whether a difference matters; ``clrft.compare`` names it beside the numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from clrft.runs import RunRecord

# Where a run is kept and what it is called: no settings.
_PLACE_AND_NAME = ("seed", "run.", "stream.label", "method.label", "model.label")
_SHARED_SECTIONS = ("stream.", "model.", "evaluate.")  # must be the same for every method of a comparison
_SHARED_FACTS = ("versions", "data", "model")


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names with their values as text."""
    flat: dict[str, str] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def differing_settings(runs: Sequence[RunRecord]) -> list[str]:
    """Dotted names of the settings in which runs differ; one that repeats each run's seed is none."""
    settings = [_settings(run) for run in runs]
    own_seeds = [str(run.seed) for run in runs]
    return [name for name in _differing(settings) if [one.get(name) for one in settings] != own_seeds]


def unlike(runs: Sequence[RunRecord]) -> list[str]:
    """Facts that should be the same for all methods in one class order, and are not.

    Settings of stream, model and evaluation by their dotted names; data, model identity and versions as
    ``manifest.…``.
    """
    names: dict[str, None] = {}
    for seed in sorted({run.seed for run in runs}):
        names |= dict.fromkeys(_differing([_shared(run) for run in runs if run.seed == seed]))
    return list(names)


def _settings(run: RunRecord) -> dict[str, str]:
    return {name: value for name, value in flatten(run.config).items() if not name.startswith(_PLACE_AND_NAME)}


def _shared(run: RunRecord) -> dict[str, str]:
    settings = {name: value for name, value in _settings(run).items() if name.startswith(_SHARED_SECTIONS)}
    return settings | flatten({part: run.manifest.get(part) or {} for part in _SHARED_FACTS}, "manifest.")


def _differing(many: Sequence[Mapping[str, str]]) -> list[str]:
    names = dict.fromkeys(name for one in many for name in one)
    return [name for name in names if len({one.get(name) for one in many}) > 1]
