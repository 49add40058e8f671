"""Whether the updates of runs reached their weights: without it two runs of one method have not learned alike.

What the optimizers are: ``methods/model/numerics.py``.
"""

from collections.abc import Sequence

from clrft.analysis.groups import Group
from clrft.config.records import LEAST_APPLIED
from clrft.runs.differences import FLOOR

# As in methods/settings.py, which takes seconds to import.
AUTO, KEEPING = "auto", ("adamw_float32", "adamw_kahan")
LOST_BELOW = 0.9  # share of an update that reached the weights


def lost_updates(groups: Sequence[Group]) -> list[str]:
    """What learned less than it meant to, since its weights were too coarse."""
    found = []
    for group in groups:
        shares = [run.task_metrics(stage).get(LEAST_APPLIED) for run in group.runs for stage in run.stages()]
        least = min((share for share in shares if share is not None), default=1.0)
        if least < LOST_BELOW:
            found.append(
                f"as little as {least:.0%} of an update of {group.label} reached the weights, and the rest was lost to "
                "rounding (update_applied in steps.jsonl), so that its figures are not those of the method."
            )
    return found


def held_apart(groups: Sequence[Group]) -> list[str]:
    """How ``train.optimizer=auto`` has the weights moved, where memory did not allow the same for all."""
    kinds: dict[str, dict[str, None]] = {}
    for group in (one for one in groups if one.method != FLOOR):
        for run in group.runs:
            optimizer = (run.manifest.get("model") or {}).get("optimizer")
            if (run.config.get("train") or {}).get("optimizer") == AUTO and optimizer in KEEPING:
                kinds.setdefault(optimizer, {})[group.label] = None
    if len(kinds) < 2:
        return []
    told = " and ".join(f"{', '.join(labels)} by {optimizer}" for optimizer, labels in kinds.items())
    return [f"weights were moved in two ways, as memory allowed: {told}. Both keep all of an update."]
