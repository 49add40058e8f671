"""Why cells do not fit into memory or cannot be shared, what would make them, and what would make a sweep cheaper.

Settings are changed one at a time, and memory estimated or the plan made anew; nothing is guessed.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from clrft.config.run_config import RunConfig
from clrft.memory.estimate import Estimate, changes, memory_hints, with_value
from clrft.memory.phases import Longest, Sharing, gib
from clrft.planning.calibration import kind_of
from clrft.planning.plan import CellPlan, Plan, Target, memory_of, plan_of, sharding_problems, target_of
from task_streams.errors import UserError

MOST_WAYS = 4  # that are named
MUCH = 0.2  # of hours: a setting that saves so much need not be lower
LEAST = 0.02  # of hours or of disk; less is not worth a setting
# Section, name, value, and what else it does.
SETTINGS: tuple[tuple[str, str, Any, str], ...] = (
    ("evaluate", "probe", 0, "no general ability"),
    ("evaluate", "drift_prompts", 0, "no drift figures"),
    ("evaluate", "final_list", False, "forgetting unsplit"),
    *(("stream", "test_per_class", count, "wider errors") for count in (100, 50, 20, 10)),
    ("stream", "think", False, "another training"),
    ("run", "keep_weights", "last", "no forks"),
    ("train", "carry_optimizer", False, "another training"),
    ("model", "adapter", "lora", "another training"),
    ("model", "media", "last", "another training"),
    ("evaluate", "batch_size", 256, "more memory"),
    ("method", "group_size", 4, "another training"),
)


class Suggestion(NamedTuple):
    """A change and what the plan is with it."""

    word: str  # as on the command line, or in words
    plan: Plan  # with it
    note: str = ""  # what else it does; empty if nothing


def grouped(cells: Iterable[tuple[str, CellPlan]]) -> dict[str, list[CellPlan]]:
    """Cells by a name that each has."""
    found: dict[str, list[CellPlan]] = defaultdict(list)
    for name, cell in cells:
        found[name].append(cell)
    return found


def cannot_run(plan: Plan) -> list[str]:
    """Why cells cannot be shared as the plan has it, each reason once, with the cells that it holds for."""
    found = grouped((reason, cell) for cell in plan.unshareable for reason in cell.problems)
    return [f"{methods_of(cells)} ({len(cells)} of the cells): {reason}" for reason, cells in found.items()]


def does_not_fit(plan: Plan) -> list[str]:
    """Why cells do not fit, model by model."""
    models = grouped((cell.config.model_label, cell) for cell in plan.unfit)
    return [unfit_reason(cells, plan.target) for cells in models.values()]


def unfit_reason(cells: Sequence[CellPlan], target: Target) -> str:
    """Why some cells of one model do not fit: the one that needs most, with what needs less."""
    worst = max(cells, key=lambda cell: cell.memory.peak.total)
    config, peak, there, several = worst.config, worst.memory.peak, target.memory or 0, target.sharing.processes > 1
    activity = next(name for name, one in worst.memory.items() if one is peak)

    def estimated(settings: RunConfig, longest: Longest) -> Estimate:
        apart = not worst.problems and sharding_problems(settings, target.sharing)
        return Estimate() if apart else memory_of(settings, target, longest=longest)

    ways = memory_hints(config, worst.statistics.longest, activity, there, estimated)
    phase = f"{activity} ({peak.phase})" if several and peak.phase != activity else activity
    advice = f"Set one or more of {'; '.join(ways[:MOST_WAYS])}." if ways else "No setting alone needs less."
    sentences = [
        f"{config.model_label}: {len(cells)} of the cells ({methods_of(cells)}) need more than the {gib(there)} GiB"
        f"{' of each device' if several else ''} that are there.",
        f"{config.stream_label} by {config.method_label} needs most: about {gib(peak.total)} GiB for {phase}. {advice}",
        *devices_that_suffice(cells, target),
    ]
    return " ".join(sentences)


def devices_that_suffice(cells: Sequence[CellPlan], target: Target) -> list[str]:
    """On how many devices each, the fewest first, cells would fit; the largest of the others with one setting more.

    More devices are named where they ask for other values.
    """
    hardware = target.hardware
    if hardware is None or hardware.device.link is None or hardware.devices == 1:
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
    others: dict[str, dict[tuple[str, ...], str]] = defaultdict(dict)  # by cell, and by the settings
    for sharing in sharings:
        allowed = [cell for cell in left if not sharding_problems(cell.config, sharing)]
        if not allowed:
            continue
        worst = max(allowed, key=lambda cell: memory_of(cell.config, target, sharing).peak.total)
        config, ways = worst.config, dict[str, str]()  # of each setting the mildest value that is enough
        for change in changes(config, worst.statistics.longest):
            if fits(change.config, target.sharing, change.longest):
                ways[change.setting] = ""  # as it is, which was said
            elif change.setting not in ways and fits(change.config, sharing, change.longest):
                ways[change.setting] = change.word
        if named := tuple(way for way in ways.values() if way)[:MOST_WAYS]:
            with_them = f"one of {', '.join(named)}" if len(named) > 1 else named[0]
            found = others[f"{config.stream_label} by {config.method_label}"]
            found.setdefault(named, f"{sharing_text(sharing)} with {with_them}")
    sentences += [f"{name} fits {'; '.join(found.values())}." for name, found in others.items()]
    return sentences or [f"Nor do they fit on 2 to {counts[-1]} devices each, shared or split, with one setting more."]


def sharing_text(sharing: Sharing) -> str:
    """How many devices share a cell, with the words for it."""
    how, words = ("split over", " --split") if sharing.split else ("shared by", "")
    return f"{how} {sharing.processes} devices (--devices-per-cell {sharing.processes}{words})"


def methods_of(cells: Iterable[CellPlan]) -> str:
    """The methods of some cells."""
    return ", ".join(dict.fromkeys(cell.config.method_label for cell in cells))


def suggestions(plan: Plan) -> list[Suggestion]:
    """Changes that save hours or disk, those that save most hours first.

    Of a setting with several values the first that saves much, or the last.
    """
    cells, target = [cell.config for cell in plan.cells], plan.target
    found: dict[str, Suggestion] = {}
    for change, changed, note in cheaper(cells, target.device.type == "cuda"):
        then = plan_of(changed, target)
        if len(then.unshareable) > len(plan.unshareable) * len(changed) / len(cells):
            continue  # processes cannot share cells with it
        if then.wall() < (1 - LEAST) * plan.wall() or then.kept < (1 - LEAST) * plan.kept:
            more, setting = len(then.unfit) - len(plan.unfit), change.partition("=")[0]
            if setting not in found or found[setting].plan.wall() > (1 - MUCH) * plan.wall():
                found[setting] = Suggestion(change, then, f"{more} more do not fit" if more > 0 else note)
    if target.sharing.processes > 1 and target.hardware is not None:  # cells on one device each, if they fit
        then = plan_of(cells, target_of(target.hardware, None, target.completion))
        if not then.unfit and then.wall() < (1 - LEAST) * plan.wall():
            found["--devices-per-cell"] = Suggestion("--devices-per-cell 1", then, "more cells at a time")
    return sorted(found.values(), key=lambda one: (one.plan.wall(), one.plan.kept))


def cheaper(cells: Sequence[RunConfig], on_gpu: bool) -> Iterator[tuple[str, list[RunConfig], str]]:
    """A change's word, the cells with it where any has another value that costs more, and what else it does."""
    first = {kind_of(cell): cell for cell in reversed(cells)}
    if len(first) < len(cells):
        kept = set(first.values())
        yield "one class order", [cell for cell in cells if cell in kept], "no spread, no test"
    for section, name, value, note in SETTINGS:
        if name == "batch_size" and not on_gpu:
            continue
        changed, change = [], ""
        for cell in cells:
            now = getattr(getattr(cell, section), name, value)
            cheap = now is not None and (
                now >= value if name == "batch_size" else name in ("test_per_class", "group_size") and now <= value
            )
            if cheap or now == value:
                changed.append(cell)
                continue
            try:
                change, then = with_value(cell, section, name, value)
            except UserError:
                break  # the settings do not go together
            changed.append(then)
        else:
            if change:
                yield change, changed, note
