"""What would make a sweep cheaper: settings changed one at a time, and the plan made anew; nothing is guessed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clrft.config.run_config import RunConfig
from clrft.planning.calibration import kind_of
from clrft.planning.plan import Plan, plan_of, target_of
from task_streams.errors import UserError

MUCH = 0.2  # of hours: a setting that saves so much need not be lower
LEAST = 0.02  # of hours or of disk; less is not worth a setting
FEW_TESTS = (100, 50, 20, 10)  # test items of a class
GROUP = 4

Changed = Callable[[RunConfig], RunConfig]


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change and what the plan is with it.

    Attributes:
        word: as on the command line, or in words.
        plan: with it.
        note: what else it does; empty if nothing.
    """

    word: str
    plan: Plan
    note: str = ""


def cheaper(plan: Plan) -> list[Remedy]:
    """Changes that save hours or disk, those that save most hours first."""
    cells = [cell.config for cell in plan.cells]
    found = []
    for word, changed, note in changes(cells, plan.target.device.type == "cuda"):
        then = plan_of(changed, plan.target)
        if len(then.refused) > len(plan.refused) * len(changed) / len(cells):
            continue  # processes cannot share cells with it
        if then.wall() < (1 - LEAST) * plan.wall() or then.kept < (1 - LEAST) * plan.kept:
            more = len(then.unfit) - len(plan.unfit)
            found.append(Remedy(word, then, f"{more} more do not fit" if more > 0 else note))
    found += alone(plan)
    return sorted(mildest(found, plan), key=lambda one: (one.plan.wall(), one.plan.kept))


def alone(plan: Plan) -> list[Remedy]:
    """Cells on one device each, where several share them and each fits on one."""
    target = plan.target
    if target.sharing.processes == 1 or target.hardware is None:
        return []
    then = plan_of([cell.config for cell in plan.cells], target_of(target.hardware, None, target.completion))
    saves = not then.unfit and then.wall() < (1 - LEAST) * plan.wall()
    return [Remedy("--devices-per-cell 1", then, "more cells at a time")] if saves else []


def mildest(found: Sequence[Remedy], plan: Plan) -> list[Remedy]:
    """Of a setting with several values the first that saves much, or the last."""
    told: dict[str, Remedy] = {}
    for one in found:
        setting = one.word.partition("=")[0]
        if setting not in told or told[setting].plan.wall() > (1 - MUCH) * plan.wall():
            told[setting] = one
    return list(told.values())


def changes(cells: Sequence[RunConfig], on_gpu: bool) -> Iterator[tuple[str, list[RunConfig], str]]:
    """A change's word, the cells with it, and what else it does."""
    first = {kind_of(cell): cell for cell in reversed(cells)}
    if len(first) < len(cells):
        kept = set(first.values())
        yield "one class order", [cell for cell in cells if cell in kept], "no spread, no test"
    sections: list[tuple[str, str, Any, str]] = [
        ("evaluate", "probe", 0, "no general ability"),
        ("evaluate", "drift_prompts", 0, "no drift figures"),
        ("evaluate", "final_list", False, "forgetting unsplit"),
        *(("stream", "test_per_class", count, "wider errors") for count in FEW_TESTS),
        ("stream", "think", False, "another training"),
        ("run", "keep_weights", "last", "no forks"),
        ("train", "carry_optimizer", False, "another training"),
        ("model", "adapter", "lora", "another training"),
        ("model", "media", "last", "another training"),
    ]
    if on_gpu:
        sections += [("evaluate", "batch_size", 256, "more memory")]
    for section, name, value, note in sections:
        yield from one_change(cells, section, name, value, note)
    grouped = [with_value(cell, "method", "group_size", GROUP) if larger_group(cell) else cell for cell in cells]
    if grouped != list(cells):
        yield f"method.group_size={GROUP}", grouped, "another training"


def one_change(
    cells: Sequence[RunConfig], section: str, name: str, value: Any, note: str
) -> Iterator[tuple[str, list[RunConfig], str]]:
    """The change where any cell has another value that costs more."""
    changed = []
    for cell in cells:
        now = getattr(getattr(cell, section), name, value)
        less = name == "test_per_class" and now is not None and now <= value
        more = name == "batch_size" and now >= value
        try:
            changed.append(cell if less or more or now == value else with_value(cell, section, name, value))
        except UserError:
            return  # the settings do not go together
    if changed != list(cells):
        shown = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
        yield f"{section}.{name}={shown}", changed, note


def larger_group(cell: RunConfig) -> bool:
    """Whether a cell's groups are larger than the one that is tried."""
    return int(getattr(cell.method, "group_size", 0)) > GROUP


def with_value(cell: RunConfig, section: str, name: str, value: Any) -> RunConfig:
    """A cell's settings with another value."""
    return replace(cell, **{section: replace(getattr(cell, section), **{name: value})})
