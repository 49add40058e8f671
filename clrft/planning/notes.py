"""What a plan says in sentences: what it rests on, and why cells do not fit."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from clrft.config.run_config import RunConfig
from clrft.memory.checkpoint_shape import checkpoint_of
from clrft.memory.estimate import Longest, gib
from clrft.memory.hints import changes, less_by
from clrft.memory.peaks import memory_of
from clrft.memory.sharing import ALONE, Sharing
from clrft.planning.activities import uncounted
from clrft.planning.hardware import LINKED
from clrft.planning.plan import CellPlan, Plan, Target
from clrft.planning.sharding_checks import sharing_problems
from clrft.planning.streams import outline_of
from methods.settings import KAHAN, WIDE

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
        found += assumed_notes(plan) + sharing_notes(plan)
    found += long_prompts(cells) + optimizer_notes(cells)
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


def optimizer_notes(cells: Sequence[CellPlan]) -> list[str]:
    """Which optimizers move the weights of full fine-tuning, where memory decides."""
    chosen = Counter(cell.config.train.optimizer for cell in cells)
    told = [f"{name} in {chosen[name]} cells" for name in (WIDE, KAHAN) if chosen[name]]
    return [f"Weights are moved by {' and '.join(told)}, as memory allows (train.optimizer)."] if told else []


def assumed_notes(plan: Plan) -> list[str]:
    """What is assumed of a hardware that was not measured."""
    hardware = plan.target.hardware
    if hardware is None:
        return []
    share, reach, launch = (hardware.assumed[name] for name in ("share", "reach", "launch"))
    means = sorted({round(cell.lengths.train) for cell in plan.cells if cell.config.method_name != "zero_shot"})
    asked = "as asked for" if plan.target.completion else "assumed; --completion-tokens N sets it"
    return [
        f"The speed of {hardware.title} is assumed: {share[0]:.0%} of peak operations "
        f"({share[1]:.0%} to {share[2]:.0%}), {reach[0]:.0%} of bandwidth ({reach[1]:.0%} to {reach[2]:.0%}), "
        f"{1e3 * launch[0]:.1f} ms to launch a layer ({1e3 * launch[1]:.1f} to {1e3 * launch[2]:.1f}).",
        f"Rollouts of {means[0] if means else 0} to {means[-1] if means else 0} tokens ({asked}). Not in the hours: "
        "decoding of images and clips by CPUs, the comparison and the report.",
    ]


def sharing_notes(plan: Plan) -> list[str]:
    """What several processes of a cell do, and how they are started."""
    sharing, hardware = plan.target.sharing, plan.target.hardware
    if sharing.processes == 1 or hardware is None or hardware.link is None:
        return []
    likely, slow, fast = hardware.assumed[LINKED]
    wanted = "ACCELERATE_USE_FSDP=true " if sharing.split else ""
    return [
        f"Between devices {likely:.0%} of {hardware.link / 1e9:.0f} GB/s each way ({slow:.0%} to {fast:.0%}) are "
        "assumed, with nothing computed meanwhile. Every process does all of drift, of Fisher information and of what "
        "a method makes for itself; tests are dealt out by whole batches.",
        f"clrft sweep starts a cell as one process. To share one: {wanted}torchrun --nproc-per-node "
        f"{sharing.processes} -m clrft run stream=… method=… model=… (docs/several-processes.md).",
    ]


def cannot_run(plan: Plan) -> list[str]:
    """Why cells cannot be shared as the plan has it, each reason once, with the cells that it holds for."""
    found: dict[str, list[CellPlan]] = {}
    for cell in plan.refused:
        for reason in cell.refused:
            found.setdefault(reason, []).append(cell)
    return [f"{methods_of(cells)} ({len(cells)} of the cells): {reason}" for reason, cells in found.items()]


def refusals(plan: Plan) -> list[str]:
    """Why cells do not fit: of each model the cell that needs most, with what needs less."""
    found: dict[str, list[CellPlan]] = {}
    for cell in plan.unfit:
        found.setdefault(cell.config.model_label, []).append(cell)
    return [refusal(cells, plan.target) for cells in found.values()]


def refusal(cells: Sequence[CellPlan], target: Target) -> str:
    """Why some cells of one model do not fit into their device's memory."""
    worst = max(cells, key=lambda cell: cell.memory.peak.total)
    peaks, there = worst.memory.peaks(), target.memory or 0
    activity = max(peaks, key=lambda name: peaks[name].total)
    phase = peaks[activity].phase
    needed = f"{activity} ({phase})" if target.sharing.processes > 1 and phase != activity else activity
    most = gib(peaks[activity].total)
    ways = settings_that_need_less(worst, activity, target)
    told = f"Set one or more of {'; '.join(ways[:MOST_WAYS])}." if ways else "No setting alone needs less."
    each = " of each device" if target.sharing.processes > 1 else ""
    sentences = [
        f"{worst.config.model_label}: {len(cells)} of the cells ({methods_of(cells)}) need more than the "
        f"{gib(there)} GiB{each} that are there.",
        f"{worst.config.stream_label} by {worst.config.method_label} needs most: about {most} GiB for {needed}. {told}",
        *shared_fits(cells, target),
    ]
    return " ".join(sentences)


def settings_that_need_less(cell: CellPlan, activity: str, target: Target) -> list[str]:
    """Settings that a cell would need less memory with; those that its processes cannot share it with are left out."""
    checkpoint, there = checkpoint_of(cell.config.model), target.memory or 0

    def needed(config: RunConfig, longest: Longest) -> int:
        if sharing_problems(config, target.sharing) and not cell.refused:
            return sys.maxsize
        found = memory_of(config, checkpoint, target.device, longest, target.sharing)
        return found.peaks()[activity].total

    return less_by(cell.config, checkpoint.sizes, outline_of(cell.config).longest, there, needed)


def shared_fits(cells: Sequence[CellPlan], target: Target) -> list[str]:
    """Of how many devices' memory cells would have enough, whole on each or split over them; for others with what."""
    told: list[str] = []
    known: set[int] = set()
    for split in (False, True):
        sharing, fit = max(
            (fitting(cells, target, Sharing(count, split)) for count in counts_above(target)),
            key=lambda found: len(found[1]),  # the first of several, which has the fewest devices
            default=(ALONE, set[int]()),
        )
        if fit - known:
            told.append(fit_text(cells, sharing, fit))
            known |= fit
    others = [cell for place, cell in enumerate(cells) if place not in known]
    told += fits_with_a_setting(others, target) if others else []
    if not told and (counts := counts_above(target)):
        return [f"Nor do they fit on 2 to {counts[-1]} devices each, shared or split, with one setting more."]
    return told


def fits_with_a_setting(cells: Sequence[CellPlan], target: Target) -> list[str]:
    """On how many devices the largest of some cells would fit with which settings, each alone.

    More devices are named where they ask for milder ones; settings that are enough as it is are not named again.
    """
    found: dict[str, dict[tuple[str, ...], str]] = {}
    for sharing in (Sharing(count, split) for count in counts_above(target) for split in (False, True)):
        allowed = [cell for cell in cells if not sharing_problems(cell.config, sharing)]
        if not allowed:
            continue
        worst = max(allowed, key=lambda cell: bytes_of(cell.config, target, sharing)).config
        known = enough_settings(worst, target, target.sharing)
        if ways := tuple(way for way in enough_settings(worst, target, sharing) if way not in known):
            named = found.setdefault(f"{worst.stream_label} by {worst.method_label}", {})
            named.setdefault(ways, f"{shared_text(sharing)} with {one_of(ways[:MOST_WAYS])}")
    return [f"{name} fits {'; '.join(texts.values())}." for name, texts in found.items()]


def one_of(words: Sequence[str]) -> str:
    """Some words to choose from."""
    return words[0] if len(words) == 1 else f"one of {', '.join(words)}"


def enough_settings(config: RunConfig, target: Target, sharing: Sharing) -> list[str]:
    """Settings each of which is enough alone for a cell that several devices share; of each the mildest value."""
    sizes, longest = checkpoint_of(config.model).sizes, outline_of(config).longest
    found: dict[str, str] = {}
    for change in changes(config, longest, sizes):
        setting = change.word.partition("=")[0]
        if setting in found or sharing_problems(change.config, sharing):
            continue
        if bytes_of(change.config, target, sharing, change.longest) <= (target.memory or 0):
            found[setting] = change.word
    return list(found.values())


def bytes_of(config: RunConfig, target: Target, sharing: Sharing, longest: Longest | None = None) -> int:
    """What a cell needs at most of each of its devices."""
    longest = longest or outline_of(config).longest
    return memory_of(config, checkpoint_of(config.model), target.device, longest, sharing).peak.total


def counts_above(target: Target) -> list[int]:
    """Numbers of devices for a cell that may be tried: 2, 4, 8 and so on, and all that there are."""
    if target.hardware is None or target.hardware.link is None:
        return []
    devices = target.hardware.devices
    return sorted({2**power for power in range(1, devices.bit_length())} | {devices}) if devices > 1 else []


def fitting(cells: Sequence[CellPlan], target: Target, sharing: Sharing) -> tuple[Sharing, set[int]]:
    """Places of the cells that would fit, and could be run, if so many devices shared each."""
    known: dict[RunConfig, bool] = {}
    for cell in cells:
        alike = replace(cell.config, seed=0)
        if alike not in known:
            enough = bytes_of(cell.config, target, sharing) <= (target.memory or 0)
            known[alike] = enough and not sharing_problems(cell.config, sharing)
    return sharing, {place for place, cell in enumerate(cells) if known[replace(cell.config, seed=0)]}


def fit_text(cells: Sequence[CellPlan], sharing: Sharing, fit: set[int]) -> str:
    """How many fit with so many devices, and by which methods."""
    which = "All" if len(fit) == len(cells) else f"{len(fit)} ({methods_of([cells[place] for place in sorted(fit)])})"
    return f"{which} of them fit {shared_text(sharing)}."


def shared_text(sharing: Sharing) -> str:
    """How many devices share a cell, with the words for it."""
    how, words = ("split over", " --split") if sharing.split else ("shared by", "")
    return f"{how} {sharing.processes} devices (--devices-per-cell {sharing.processes}{words})"


def methods_of(cells: Sequence[CellPlan]) -> str:
    """The methods of some cells."""
    return ", ".join(dict.fromkeys(cell.config.method_label for cell in cells))
