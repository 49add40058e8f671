"""Why cells do not fit into memory or cannot be shared, and with what settings or devices they would."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from clrft.config.run_config import RunConfig
from clrft.memory.estimate import gib
from clrft.memory.hints import changes, memory_hints
from clrft.memory.model_sizes import known_sizes
from clrft.memory.phases import Longest, Sharing
from clrft.planning.plan import CellPlan, Plan, Target, memory_of, sharding_problems

MOST_WAYS = 4  # that are named


def cannot_run(plan: Plan) -> list[str]:
    """Why cells cannot be shared as the plan has it, each reason once, with the cells that it holds for."""
    found: dict[str, list[CellPlan]] = {}
    for cell in plan.unshareable:
        for reason in cell.problems:
            found.setdefault(reason, []).append(cell)
    return [f"{methods_of(cells)} ({len(cells)} of the cells): {reason}" for reason, cells in found.items()]


def does_not_fit(plan: Plan) -> list[str]:
    """Why cells do not fit: of each model the cell that needs most, with what needs less."""
    found: dict[str, list[CellPlan]] = {}
    for cell in plan.unfit:
        found.setdefault(cell.config.model_label, []).append(cell)
    return [unfit_reason(cells, plan.target) for cells in found.values()]


def unfit_reason(cells: Sequence[CellPlan], target: Target) -> str:
    """Why some cells of one model do not fit into their device's memory."""
    worst = max(cells, key=lambda cell: cell.memory.peak.total)
    peaks, there, config, several = worst.memory.peaks(), target.memory or 0, worst.config, target.sharing.processes > 1
    activity = max(peaks, key=lambda name: peaks[name].total)
    phase, most = peaks[activity].phase, gib(peaks[activity].total)
    needed = f"{activity} ({phase})" if several and phase != activity else activity
    ways = memory_hints(
        config,
        known_sizes(config.model),
        target.device,
        worst.statistics.longest,
        activity,
        there,
        target.sharing,
        allowed=lambda settings: bool(worst.problems) or not sharding_problems(settings, target.sharing),
    )
    advice = f"Set one or more of {'; '.join(ways[:MOST_WAYS])}." if ways else "No setting alone needs less."
    each = " of each device" if several else ""
    sentences = [
        f"{config.model_label}: {len(cells)} of the cells ({methods_of(cells)}) need more than the "
        f"{gib(there)} GiB{each} that are there.",
        f"{config.stream_label} by {config.method_label} needs most: about {most} GiB for {needed}. {advice}",
        *devices_that_suffice(cells, target),
    ]
    return " ".join(sentences)


def devices_that_suffice(cells: Sequence[CellPlan], target: Target) -> list[str]:
    """On how many devices each, the fewest first, cells would fit; the largest of the others with one setting more."""
    hardware = target.hardware
    if hardware is None or hardware.link is None or hardware.devices == 1:
        return []
    counts = sorted({2**power for power in range(1, hardware.devices.bit_length())} | {hardware.devices})
    sharings = [Sharing(count, split) for count in counts for split in (False, True)]
    left, sentences = list(cells), []
    known: dict[tuple[RunConfig, Sharing], bool] = {}  # cells of several class orders are alike

    def fits(config: RunConfig, sharing: Sharing, longest: Longest) -> bool:
        one = replace(config, seed=0)
        if (one, sharing) not in known:
            enough = memory_of(one, target, sharing, longest).peak.total <= (target.memory or 0)
            known[one, sharing] = enough and not sharding_problems(one, sharing)
        return known[one, sharing]

    for sharing in sharings:
        if fit := [cell for cell in left if fits(cell.config, sharing, cell.statistics.longest)]:
            which = "All" if len(fit) == len(cells) else f"{len(fit)} ({methods_of(fit)})"
            sentences.append(f"{which} of them fit {sharing_text(sharing)}.")
            left = [cell for cell in left if cell not in fit]
    for sharing in sharings:
        allowed = [cell for cell in left if not sharding_problems(cell.config, sharing)]
        if not allowed:
            continue
        worst = max(allowed, key=lambda cell: memory_of(cell.config, target, sharing).peak.total)
        config, ways = worst.config, dict[str, str]()  # of each setting the mildest value that is enough
        for change in changes(config, worst.statistics.longest, known_sizes(config.model)):
            if fits(change.config, target.sharing, change.longest):
                ways[change.setting] = ""  # as it is, which was said
            elif change.setting not in ways and fits(change.config, sharing, change.longest):
                ways[change.setting] = change.word
        if named := [way for way in ways.values() if way][:MOST_WAYS]:
            with_them = f"one of {', '.join(named)}" if len(named) > 1 else named[0]
            name = f"{config.stream_label} by {config.method_label}"
            return [*sentences, f"{name} fits {sharing_text(sharing)} with {with_them}."]
    return sentences or [f"Nor do they fit on 2 to {counts[-1]} devices each, shared or split, with one setting more."]


def sharing_text(sharing: Sharing) -> str:
    """How many devices share a cell, with the words for it."""
    how, words = ("split over", " --split") if sharing.split else ("shared by", "")
    return f"{how} {sharing.processes} devices (--devices-per-cell {sharing.processes}{words})"


def methods_of(cells: Iterable[CellPlan]) -> str:
    """The methods of some cells."""
    return ", ".join(dict.fromkeys(cell.config.method_label for cell in cells))
