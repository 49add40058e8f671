"""The work of a cell's stages, counted from what the code that runs does: training, drift, tests.

It follows ``methods/drift/measure.py`` (drift) and ``clrft/runner/stage.py`` (tests); updates are in ``updates.py``. Of
penalties and estimates those of the methods in ``COUNTED`` are in it; what other parts' hooks compute is not, which
``uncounted`` tells.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from clrft.config.run_config import RunConfig
from clrft.memory.sharing import in_batches
from clrft.planning.cell import Cell
from clrft.planning.operation_counts import Tally
from clrft.planning.shared_work import NOTHING, Dealt
from clrft.planning.stream_statistics import TaskOutline
from clrft.planning.updates import training
from clrft.runs.cost_names import DRIFT, EVALUATE, TRAIN
from methods.drift.items import GROUP_SIZE, OTHERS_SIZE
from methods.drift.measure import PROMPTS

COUNTED = frozenset(
    (
        *("zero_shot", "sft", "grpo", "joint_sft", "joint_grpo", "rapo", "rapo_rr", "rapo_ctan"),
        *("dr_grpo", "dapo", "gspo", "sapo", "anchored_kl", "l2", "l2_init", "ewc", "lwf", "wise", "replay"),
    )
)


def uncounted(config: RunConfig) -> list[str]:
    """Members of a cell's method whose own passes are not counted."""
    return [name for name in (config.method_name, *(part for part, _ in config.parts)) if name not in COUNTED]


def stage_work(cell: Cell, stage: int) -> Mapping[str, Tally]:
    """The work of a stage by activity, of all of the cell's processes together: as a run's costs have it."""
    return {activity: work.all for activity, work in dealt_work(cell, stage).items()}


def dealt_work(cell: Cell, stage: int) -> Mapping[str, Dealt]:
    """The work of a stage by activity, of all of the cell's processes, and of the one that has most of it."""
    whole = cell.passes.gathered(1 + cell.copies(stage))  # for drift and tests together
    work = {EVALUATE: tests(cell, stage) + Dealt.alike(whole, cell.sharing)}
    if stage and cell.trains:
        work[TRAIN] = training(cell, stage)
        if cell.config.evaluate.drift_prompts:
            work[DRIFT] = Dealt.alike(drift(cell, stage), cell.sharing)
    return work


def drift(cell: Cell, stage: int) -> Tally:
    """Rollouts of the policy and of those before it, and what each says about the other's."""
    joint = cell.method.joint
    task = cell.outline.joint if joint else cell.outline.tasks[stage - 1]
    place = -1 if joint else stage - 1
    asked = (task, task.prompts[place], cell.lead(task.leads[place]))
    others = 1 if joint or stage == 1 else 2
    items = min(cell.config.evaluate.drift_prompts, task.test)
    batches = [min(PROMPTS, items - start) for start in range(0, items, PROMPTS)]
    work = Tally()
    for count, times in Counter(batches).items():
        work += drift_of(cell, count, others, *asked) * times
    return work


def drift_of(cell: Cell, count: int, others: int, task: TaskOutline, prompt: float, lead: float) -> Tally:
    """That of some prompts, asked together."""
    mean, passes = cell.lengths.test, cell.passes.together
    longest = cell.lengths.longest(mean)

    def sampled(rows: int) -> Tally:
        wrote = passes.written(rows, rows, prompt, mean, longest, graphs=False)
        return wrote + Tally(prompt_tokens=rows * prompt)

    def said(rows: int) -> Tally:
        both = passes.following(rows, longest, prompt + longest) + passes.head(rows * mean)
        return (both + Tally(prompt_tokens=rows * prompt)) * 2

    own, theirs = count * GROUP_SIZE, count * OTHERS_SIZE
    work = passes.prompts(count, prompt, task.shown, lead=lead) * (1 + others)
    return work + sampled(own) + (sampled(theirs) + said(own) + said(theirs)) * others


def tests(cell: Cell, stage: int) -> Dealt:
    """Answers to the test items of every task due, to one task once more, and to the built-in probe."""
    evaluate, outline, method = cell.config.evaluate, cell.outline, cell.method
    mean = cell.lengths.test if stage and cell.trains else cell.lengths.base
    work = NOTHING
    for index, task in enumerate(outline.tasks, start=1):
        if index <= stage:
            work += answered(cell, task, stage - 1, mean, task.new)
            work += Dealt(Tally(answers=task.test - task.new), Tally())  # kept for this task too
        elif evaluate.future:
            work += answered(cell, task, index - 1, mean, task.test)
    asked_again = evaluate.final_list and stage > 0 and not method.joint
    if asked_again and not outline.tasks[stage - 1].lists_all:
        task = outline.tasks[stage - 1]
        work += answered(cell, task, -1, mean, task.test, seen=False)  # their images were seen just now
    if evaluate.probe and (stage == 0 or cell.trains or stage == len(outline)):
        work += probe(cell)
    return work


def answered(cell: Cell, task: TaskOutline, place: int, mean: float, items: int, seen: bool = True) -> Dealt:
    """Answers to some of a task's test items under the class list of a place, batch by batch; processes take turns."""
    prompt, lead, passes = task.prompts[place], cell.lead(task.leads[place]), cell.passes.together
    batches = in_batches(items, cell.config.evaluate.batch_size)

    def batch(count: int) -> Tally:
        read = passes.prompts(count, prompt, task.shown, None if seen else 0.0, lead=lead)
        wrote = passes.written(count, count, prompt, mean, cell.lengths.longest(mean), graphs=True)
        return read + wrote + Tally(items=count, answers=count, prompt_tokens=count * prompt)

    each = {count: batch(count) for count in set(batches)}

    def together(sizes: Mapping[int, int]) -> Tally:
        return sum((each[count] * times for count, times in sizes.items()), Tally())

    return Dealt(together(Counter(batches)), together(Counter(cell.sharing.first(batches))))


def probe(cell: Cell) -> Dealt:
    """Answers to the built-in probe."""
    look, items = cell.probe, cell.config.evaluate.probe
    task = TaskOutline(0, items, items, look.tokens, (look.tokens,), 0.0, look.shown, True, look.lead, (look.lead,))
    work = answered(cell, task, 0, cell.lengths.probe, items)
    return Dealt(replace(work.all, answers=0.0), replace(work.own, answers=0.0))
