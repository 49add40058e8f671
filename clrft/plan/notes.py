"""What a plan says in sentences: what it rests on, and why cells do not fit."""

from collections.abc import Sequence

from clrft.estimate import gib
from clrft.plan.activities import uncounted
from clrft.plan.checkpoint import checkpoint_of
from clrft.plan.plan import CellPlan, Plan, Target
from clrft.plan.streams import outline_of
from clrft.remedies import remedies

MOST_WAYS = 4  # that are named


def notes(plan: Plan) -> list[str]:
    """What a plan rests on, in sentences."""
    cells, target = plan.cells, plan.target
    found = []
    away = dict.fromkeys(cell.config.stream_label for cell in cells if not cell.here)
    if away:
        found.append(f"Estimated, data not here: {', '.join(away)}; sizes as published, names of classes made up.")
    rough = dict.fromkeys(str(cell.config.model.path) for cell in cells if not cell.exact)
    if rough:
        found.append(f"Prompt lengths are estimated for {', '.join(rough)}: 4 letters a token, images by their size.")
    if target.measured is not None:
        found.append(
            f"Hours and lengths of completions: measured now in {target.measured.took:.0f} s, a few updates and tests "
            "of every kind of cell, as many at a time as the sweep runs."
        )
    else:
        found += assumed_notes(plan)
    found += long_prompts(cells)
    own = dict.fromkeys(name for cell in cells for name in uncounted(cell.config))
    if own:
        found.append(f"Not counted: passes of their own of {', '.join(own)}.")
    return found


def long_prompts(cells: Sequence[CellPlan]) -> list[str]:
    """Streams whose longest prompts exceed the limit of the settings: a run refuses them."""
    lengths = {cell.config.stream_label: outline_of(cell.config).longest.tokens for cell in cells}
    over = dict.fromkeys(
        f"{cell.config.stream_label} ({lengths[cell.config.stream_label]})"
        for cell in cells
        if lengths[cell.config.stream_label] > cell.config.train.max_prompt_tokens
    )
    return [f"Longer than train.max_prompt_tokens, which a run refuses: {', '.join(over)} tokens."] if over else []


def assumed_notes(plan: Plan) -> list[str]:
    """What is assumed of a hardware that was not measured."""
    hardware = plan.target.hardware
    if hardware is None:
        return []
    share, reach, launch = (hardware.assumed[name] for name in ("share", "reach", "launch"))
    means = sorted({round(cell.lengths.train) for cell in plan.cells if cell.config.method_name != "zero_shot"})
    asked = "as asked for" if plan.target.completion else "assumed; --completion-tokens N sets it"
    return [
        f"Nothing was measured on {hardware.title} by this project. Assumed: {share[0]:.0%} of peak operations "
        f"({share[1]:.0%} to {share[2]:.0%}), {reach[0]:.0%} of bandwidth ({reach[1]:.0%} to {reach[2]:.0%}), "
        f"{1e3 * launch[0]:.1f} ms to launch a layer ({1e3 * launch[1]:.1f} to {1e3 * launch[2]:.1f}).",
        f"Rollouts of {means[0] if means else 0} to {means[-1] if means else 0} tokens ({asked}). Not in the hours: "
        "decoding of images and clips by CPUs, the comparison and the report.",
    ]


def refusals(plan: Plan) -> list[str]:
    """Why cells do not fit: of each model the cell that needs most, with settings that need less."""
    found: dict[str, list[CellPlan]] = {}
    for cell in plan.unfit:
        found.setdefault(cell.config.model_label, []).append(cell)
    return [refusal(cells, plan.target) for cells in found.values()]


def refusal(cells: Sequence[CellPlan], target: Target) -> str:
    """Why some cells of one model do not fit into their device's memory."""
    worst = max(cells, key=lambda cell: cell.memory.peak.total)
    config, peaks, there = worst.config, worst.memory.peaks(), target.memory or 0
    activity = max(peaks, key=lambda name: peaks[name].total)
    ways = remedies(
        config, checkpoint_of(config.model).sizes, target.device, outline_of(config).longest, activity, there
    )
    told = f"Set one or more of {'; '.join(ways[:MOST_WAYS])}." if ways else "No setting alone needs less."
    methods = ", ".join(dict.fromkeys(cell.config.method_label for cell in cells))
    return (
        f"{config.model_label}: {len(cells)} of the cells ({methods}) need more than the {gib(there)} GiB that are "
        f"there. {config.stream_label} by {config.method_label} needs most: about {gib(peaks[activity].total)} GiB for "
        f"{activity}. {told}"
    )
