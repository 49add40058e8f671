"""A whole training step: data, rollout, rewards, log-probabilities, update; stock TRL, the plain path, ours, RaPO."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engine.models import load
from benchmarks.engine.options import Options
from benchmarks.engine.pairs import Case, Contender
from benchmarks.engine.trainers import NAMES, Stepper, trainer_of
from benchmarks.engine.workload import Workload, workload


def cases(options: Options, scratch: Path) -> Iterator[Case]:
    """The one case that the options describe."""
    yield step_case(options, scratch, NAMES)


def step_case(options: Options, scratch: Path, names: Sequence[str]) -> Case:
    """One step of each named trainer; the first is the baseline."""
    asked = [name for name in names if not options.only or name in options.only]
    contenders, work = [], None
    for name in asked:
        policy = load(options, stock=name == "stock")
        work = workload(options, policy.processor)
        stepper = Stepper(trainer_of(name, policy, work, options, scratch / name), policy.device)
        contenders.append(Contender(name, stepper, policy, stepper.held))
    parts = {
        "micro_batches": options.accumulation,
        "own_micro_batches": options.own_accumulation or options.accumulation,
    }
    return Case("training step", {**axes(options, work), **parts}, asked[0], contenders)


def axes(options: Options, work: Workload | None) -> dict[str, Any]:
    """What the step works on."""
    return {
        "prompts": options.prompts,
        "group": options.group,
        "prompt_tokens": None if work is None else work.prompt_tokens,
        "completion_tokens": options.completion_tokens or "natural",
    }
