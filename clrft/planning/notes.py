"""What a plan rests on, in sentences."""

from collections import Counter

from clrft.planning.hardware import LINKED, Hardware
from clrft.planning.plan import Plan
from clrft.planning.stage_work import uncounted
from clrft.planning.stream_statistics import statistics_of
from methods.settings import KAHAN, WIDE


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
    elif target.hardware is not None:
        found += assumed_notes(plan, target.hardware)
    lengths = {cell.config.stream_label: statistics_of(cell.config).longest.tokens for cell in cells}
    limits = {cell.config.stream_label: cell.config.train.max_prompt_tokens for cell in cells}
    if over := [f"{name} ({tokens})" for name, tokens in lengths.items() if tokens > limits[name]]:
        found.append(f"Longer than train.max_prompt_tokens, which a run refuses: {', '.join(over)} tokens.")
    chosen = Counter(cell.config.train.optimizer for cell in cells)
    if told := [f"{name} in {chosen[name]} cells" for name in (WIDE, KAHAN) if chosen[name]]:
        found.append(f"Weights are moved by {' and '.join(told)}, as memory allows (train.optimizer).")
    if own := dict.fromkeys(name for cell in cells for name in uncounted(cell.config)):
        found.append(f"Not counted: passes of their own of {', '.join(own)}.")
    return found


def assumed_notes(plan: Plan, hardware: Hardware) -> list[str]:
    """What is assumed of a hardware that was not measured; what several processes of a cell do, and their start."""
    share, reach, launch = (hardware.assumed[name] for name in ("share", "reach", "launch"))
    means = sorted({round(cell.lengths.train) for cell in plan.cells if cell.config.method_name != "zero_shot"}) or [0]
    asked = "as asked for" if plan.target.completion else "assumed; --completion-tokens N sets it"
    found = [
        f"The speed of {hardware.title} is assumed: {share[0]:.0%} of peak operations "
        f"({share[1]:.0%} to {share[2]:.0%}), {reach[0]:.0%} of bandwidth ({reach[1]:.0%} to {reach[2]:.0%}), "
        f"{1e3 * launch[0]:.1f} ms to launch a layer ({1e3 * launch[1]:.1f} to {1e3 * launch[2]:.1f}).",
        f"Rollouts of {means[0]} to {means[-1]} tokens ({asked}). Not in the hours: "
        "decoding of images and clips by CPUs, the comparison and the report.",
    ]
    sharing = plan.target.sharing
    if sharing.processes > 1 and hardware.link is not None:
        likely, slow, fast = hardware.assumed[LINKED]
        wanted = "ACCELERATE_USE_FSDP=true " if sharing.split else ""
        found += [
            f"Between devices {likely:.0%} of {hardware.link / 1e9:.0f} GB/s each way ({slow:.0%} to {fast:.0%}) are "
            "assumed, with nothing computed meanwhile. Every process does all of drift, of Fisher information and of "
            "what a method makes for itself; tests are dealt out by whole batches.",
            f"clrft sweep starts a cell as one process. To share one: {wanted}torchrun --nproc-per-node "
            f"{sharing.processes} -m clrft run stream=… method=… model=… (docs/several-processes.md).",
        ]
    return found
