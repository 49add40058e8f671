"""Why cells do not fit into memory or cannot be shared, and with what settings or devices they would."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from clrft.config.run_config import RunConfig
from clrft.memory.estimate import gib
from clrft.memory.hints import changes, memory_hints
from clrft.memory.model_sizes import known_sizes
from clrft.memory.sharing import Sharing
from clrft.planning.plan import CellPlan, Plan, Target, memory_of, sharding_problems
from clrft.planning.stream_statistics import statistics_of

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
    """Of how many devices' memory cells would have enough, whole on each or split over them; for others with what."""
    hardware = target.hardware
    if hardware is None or hardware.link is None or hardware.devices == 1:
        return []
    counts = sorted({2**power for power in range(1, hardware.devices.bit_length())} | {hardware.devices})
    sentences: list[str] = []
    known: set[int] = set()
    for split in (False, True):
        found = {count: fitting(cells, target, Sharing(count, split)) for count in counts}
        count = max(counts, key=lambda one: len(found[one]))  # the first of several, which has the fewest devices
        if found[count] - known:
            names = methods_of([cells[place] for place in sorted(found[count])])
            which = "All" if len(found[count]) == len(cells) else f"{len(found[count])} ({names})"
            sentences.append(f"{which} of them fit {sharing_text(Sharing(count, split))}.")
            known |= found[count]
    others = [cell for place, cell in enumerate(cells) if place not in known]
    sentences += fits_with_a_setting(
        others, target, [Sharing(count, split) for count in counts for split in (False, True)]
    )
    return sentences or [f"Nor do they fit on 2 to {counts[-1]} devices each, shared or split, with one setting more."]


def fitting(cells: Sequence[CellPlan], target: Target, sharing: Sharing) -> set[int]:
    """Places of the cells that would fit, and could be run, if so many devices shared each."""
    known: dict[RunConfig, bool] = {}
    for cell in cells:
        alike = replace(cell.config, seed=0)
        if alike not in known:
            enough = memory_of(cell.config, target, sharing).peak.total <= (target.memory or 0)
            known[alike] = enough and not sharding_problems(cell.config, sharing)
    return {place for place, cell in enumerate(cells) if known[replace(cell.config, seed=0)]}


def fits_with_a_setting(cells: Sequence[CellPlan], target: Target, sharings: Iterable[Sharing]) -> list[str]:
    """On how many devices the largest of some cells would fit with which settings, each alone.

    More devices are named where they ask for milder ones; settings that are enough as it is are not named again.
    """
    found: dict[str, dict[tuple[str, ...], str]] = {}
    for sharing in sharings:
        allowed = [cell.config for cell in cells if not sharding_problems(cell.config, sharing)]
        if not allowed:
            continue
        worst = max(allowed, key=lambda config: memory_of(config, target, sharing).peak.total)
        known = enough_settings(worst, target, target.sharing)
        if ways := tuple(way for way in enough_settings(worst, target, sharing) if way not in known):
            named = found.setdefault(f"{worst.stream_label} by {worst.method_label}", {})
            words = ", ".join(ways[:MOST_WAYS])
            named.setdefault(ways, f"{sharing_text(sharing)} with {f'one of {words}' if len(ways) > 1 else words}")
    return [f"{name} fits {'; '.join(texts.values())}." for name, texts in found.items()]


def enough_settings(config: RunConfig, target: Target, sharing: Sharing) -> list[str]:
    """Settings each of which is enough alone for a cell that several devices share; of each the mildest value."""
    found: dict[str, str] = {}
    for change in changes(config, statistics_of(config).longest, known_sizes(config.model)):
        if change.setting in found or sharding_problems(change.config, sharing):
            continue
        if memory_of(change.config, target, sharing, change.longest).peak.total <= (target.memory or 0):
            found[change.setting] = change.word
    return list(found.values())


def sharing_text(sharing: Sharing) -> str:
    """How many devices share a cell, with the words for it."""
    how, words = ("split over", " --split") if sharing.split else ("shared by", "")
    return f"{how} {sharing.processes} devices (--devices-per-cell {sharing.processes}{words})"


def methods_of(cells: Sequence[CellPlan]) -> str:
    """The methods of some cells."""
    return ", ".join(dict.fromkeys(cell.config.method_label for cell in cells))
