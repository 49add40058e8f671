"""What would make a sweep cheaper: settings changed one at a time, and the plan made anew; nothing is guessed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clrft.config.run_config import RunConfig
from clrft.memory.hints import with_value, word
from clrft.planning.calibration import kind_of
from clrft.planning.plan import Plan, plan_of, target_of
from task_streams.errors import UserError

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


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A change and what the plan is with it."""

    word: str  # as on the command line, or in words
    plan: Plan  # with it
    note: str = ""  # what else it does; empty if nothing


def suggestions(plan: Plan) -> list[Suggestion]:
    """Changes that save hours or disk, those that save most hours first.

    Of a setting with several values the first that saves much, or the last.
    """
    cells, target = [cell.config for cell in plan.cells], plan.target
    found: dict[str, Suggestion] = {}
    for change, changed, note in changes(cells, target.device.type == "cuda"):
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


def changes(cells: Sequence[RunConfig], on_gpu: bool) -> Iterator[tuple[str, list[RunConfig], str]]:
    """A change's word, the cells with it where any has another value that costs more, and what else it does."""
    first = {kind_of(cell): cell for cell in reversed(cells)}
    if len(first) < len(cells):
        kept = set(first.values())
        yield "one class order", [cell for cell in cells if cell in kept], "no spread, no test"
    for section, name, value, note in SETTINGS:
        if name == "batch_size" and not on_gpu:
            continue
        changed = []
        for cell in cells:
            now = getattr(getattr(cell, section), name, value)
            cheaper = now is not None and (
                now >= value if name == "batch_size" else name in ("test_per_class", "group_size") and now <= value
            )
            try:
                changed.append(cell if cheaper or now == value else with_value(cell, section, name, value))
            except UserError:
                break  # the settings do not go together
        else:
            if changed != list(cells):
                yield word(f"{section}.{name}", value), changed, note
