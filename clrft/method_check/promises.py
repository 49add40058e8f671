"""The contract's promises, each tried in short real runs: what holds, and if it does not, why.

A model that it takes, order of the hooks, an untouched anchor, no earlier data, other weights than the learner's alone,
the same bits twice and after a restart in a new process, the same result whatever the accumulation, an adapter, honest
needs.
"""

import dataclasses
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clrft.config.run_config import DEFAULT_LEARNERS
from clrft.method_check.report import Report
from clrft.method_check.trace import Trace
from clrft.method_check.trial import (
    LAST,
    Resumed,
    Trial,
    learned_again,
    learned_files,
    refusals,
    resume_elsewhere,
    saved_state,
    two_tasks,
    weights_alone,
    weights_of,
)
from clrft.runner.partial_checkpoint import PartialCheckpoint
from clrft.runs.layout import stage_folder
from methods.base import Method, overrides
from methods.guard import made_method
from methods.registry import method_class, source_file

WHOLE, AGAIN = "whole", "again"  # folders of the observed run, and of the one that is stopped
TOLERANCE = 1e-5  # of a gradient (clipped to norm 1) and of a weight, between different accumulation
APART = 1e-4  # share of the weights that rounding may put further apart
ONE_TASK = {
    "supervised": r"before_task (?:choose_examples |targets )*(?:(?:loss_terms )+before_step after_step )+after_task ",
    "reinforcement": (
        r"before_task (?:choose_examples |targets )*"
        r"(?:(?:shape_rewards )?(?:normalize_advantages )?(?:loss_terms )+before_step after_step )+after_task "
    ),
}
BEHIND_STEP = ("loss_terms", "shape_rewards", "normalize_advantages", "before_step", "after_step")


def check_model(kind: type[Method], trial: Trial, report: Report) -> Trial | None:
    """The trial on a model that the method takes: with an adapter if it refuses full weights. None if it takes none."""
    if not overrides(kind, "problems"):
        return trial
    taken: Trial | None = None
    with report.check("takes the embedded model", trial.company) as found:
        with_adapter = dataclasses.replace(trial, adapter="lora")
        if not (against := refusals(trial)):
            taken = trial
        elif more := refusals(with_adapter):
            said = " ".join(dict.fromkeys([*against, *more]))
            found[:] = ["failed", f"refuses it with full weights and with LoRA, so nothing was tried: {said}"]
        else:
            taken = with_adapter
            found[1] = f"with model.adapter=lora, as in all that follows; with full weights: {' '.join(against)}"
    return taken


def check_run(kind: type[Method], trial: Trial, report: Report) -> Trace | None:
    """Two tasks under observation: hooks in order, anchor untouched, no earlier data. None if the run failed."""
    trace = Trace()
    with report.check("two tasks, hooks in order", trial.company) as found:
        two_tasks(trial, WHOLE, trace)
        found[:] = order_found(kind, trial, trace)
    ended = report.results[-1].outcome == "ok" or (LAST, "state_dict") in trace.calls
    with report.check("anchor not changed", trial.company) as found:
        if trace.mutated:
            hooks = ", ".join(sorted(set(trace.mutated)))
            found[:] = ["failed", f"{source_file(kind)}: {hooks} changed the anchor's weights; it is read only."]
        elif not ended:
            found[:] = ["not applicable", "the run failed"]
        elif "anchor" not in made_method(kind, kind.Config()).needs:
            found[:] = ["not applicable", "declares no anchor"]
    if not ended:
        return None
    with report.check("learns from the task's own data", trial.company) as found:
        found[:] = data_found(kind, trace)
    return trace


def check_effect(kind: type[Method], trial: Trial, report: Report) -> None:
    """Whether a method learns other weights than the learner that it joins, or is one of the family of, does alone."""
    learner = trial.company if kind.family == "part" else DEFAULT_LEARNERS[kind.family]
    with report.check("changes what is learned", trial.company) as found:
        if kind.joint or kind.name == learner:
            found[:] = [
                "not applicable",
                "it learns all tasks at once" if kind.joint else "others are compared with it",
            ]
            return
        same = weights_of(trial.config(WHOLE).folder) == weights_alone(learner, trial.adapter)
        found[:] = ["ok", f"other weights than {learner}"]
        if same:
            found[:] = ["no effect", f"same weights as {learner}: it changed nothing in these two tasks."]


def order_found(kind: type[Method], trial: Trial, trace: Trace) -> list[str]:
    """Whether hooks came in the contract's order, and whether all that the method has were called."""
    family = method_class(trial.company).family
    each = ["".join(f"{hook} " for task, hook in trace.calls if task == index) for index in (1, LAST)]
    own = {hook for hook in BEHIND_STEP if overrides(kind, hook)}
    # in short: the calls of the last task, what is repeated at every update once, with its number
    last = [hook for task, hook in trace.calls if task == LAST]
    shown = list(dict.fromkeys(last))
    inner = [hook for hook in shown if hook in BEHIND_STEP]
    first = shown.index(inner[0]) if inner else len(shown)
    after = [hook for hook in shown[first:] if hook not in inner]
    text = " > ".join([*shown[:first], f"{last.count('after_step')} x ({' > '.join(inner)})", *after])
    for index, calls in enumerate(each, 1):
        steps = calls.partition("state_dict")[0]
        if steps and not re.fullmatch(ONE_TASK[family], steps):
            return ["failed", f"task {index}: {text}"]
    called = {hook for _, hook in trace.calls}
    if kind.family == "part" and own and not own & called:
        return ["failed", f"with {trial.company} none of {', '.join(sorted(own))} is ever called; narrow `joins`."]
    return ["ok", text]


def data_found(kind: type[Method], trace: Trace) -> list[str]:
    """Whether a task was learned from its own examples, and from a memory only if that is declared."""
    replays = "replay" in made_method(kind, kind.Config()).needs
    foreign = sorted(trace.foreign - trace.remembered) if replays else sorted(trace.foreign)
    if foreign:
        expected = (
            "examples outside its memory" if replays else "earlier tasks' examples; declare replay, or leave them"
        )
        return ["failed", f"task {LAST} decoded {len(foreign)} {expected} (e.g. {foreign[0]})."]
    if trace.kept and not replays:
        return ["failed", f"{trace.kept[0]} holds a batch of an earlier task; declare replay, or do not keep it."]
    return ["ok", f"replays {len(trace.remembered)} declared examples" if replays else ""]


def check_determinism(kind: type[Method], trial: Trial, report: Report) -> bool:
    """A second run, not observed: the same bits. Returns whether it can be gone on with."""
    done = False
    with report.check("deterministic: two runs, same bits", trial.company) as found:
        first, second = trial.config(WHOLE).folder, two_tasks(trial, AGAIN)
        stages = (LAST,) if kind.joint else range(1, LAST + 1)
        differing = differing_files(first, second, stages)
        found[:] = ["ok", f"weights {weights_of(first)[0][:12]}"]
        if differing:
            found[:] = ["failed", f"{differing[0]} differs; draw from generators seeded with context.seed."]
        done = not kind.joint
    return done


def differing_files(first: Path, second: Path, stages: Sequence[int] | range) -> list[str]:
    """Files with what was learned that differ between two runs, the earliest first."""
    found = []
    for stage in stages:
        mine, theirs = learned_files(first, stage), learned_files(second, stage)
        found += [f"task_{stage:02d}/{name}" for name in sorted(mine | theirs) if mine.get(name) != theirs.get(name)]
    return found


def check_restart(kind: type[Method], trials: Sequence[Trial], traces: dict[Trial, Trace], report: Report) -> None:
    """Runs that stop after the first task go on in a new process: state restored, and the same end."""
    if not trials:
        return
    report.begin("a new process goes on after task 1")
    start = time.perf_counter()
    for trial in trials:
        shutil.rmtree(stage_folder(trial.config(AGAIN).folder, LAST))  # as if it had stopped there
    answers = resume_elsewhere(trials, AGAIN)
    share = (time.perf_counter() - start) / len(trials)
    for trial in trials:
        answer, folder = answers[trial.words], trial.config(WHOLE).folder
        with report.check("state survives a new process", trial.company) as found:
            found[:] = state_found(saved_state(folder, LAST - 1, trial.name), answer)
        with report.check("stopped at a boundary = never stopped", trial.company) as found:
            found[:] = restart_found(kind, trial, traces[trial], answer)
        last = report.results.pop()
        report.results.append(dataclasses.replace(last, seconds=last.seconds + share))


def state_found(saved: dict[str, str], answer: Resumed) -> list[str]:
    """Whether what was loaded is what was saved."""
    if answer.problem:
        return ["failed", answer.problem]
    if not saved and not answer.state:
        return ["not applicable", "state_dict is empty"]
    differing = sorted(key for key in saved.keys() | answer.state.keys() if saved.get(key) != answer.state.get(key))
    if differing:
        return ["failed", f"state_dict after load_state_dict is not what was saved: {', '.join(differing[:3])}."]
    return ["ok", f"{len(saved)} entries"]


def restart_found(kind: type[Method], trial: Trial, trace: Trace, answer: Resumed) -> list[str]:
    """Whether the restarted run ends with the same bits; if not, which attributes were not restored."""
    if answer.problem:
        return ["failed", answer.problem]
    known = trace.attributes.keys() | answer.attributes.keys()
    lost = sorted(name for name in known if trace.attributes.get(name) != answer.attributes.get(name))
    differing = differing_files(trial.config(WHOLE).folder, trial.config(AGAIN).folder, (LAST,))
    if differing:
        hint = f"{', '.join(lost)} is not what it was at the boundary" if lost else "something is not restored"
        wanted = "state_dict must return it and load_state_dict put it back, or before_task make it anew"
        return ["failed", f"{source_file(kind)}: {differing[0]} differs: {hint}; {wanted}."]
    return ["ok", f"same bits, though {', '.join(lost)} is not restored" if lost else "same bits"]


def check_accumulation(kind: type[Method], trial: Trial, report: Report) -> None:
    """The last task with 1, 2 and 4 micro-batches per update.

    Gradients are compared, to 1e-5: AdamW divides by their size, so that a gradient of about zero moves its weight by
    a whole step in a direction that rounding decides. Of the weights a share of 1e-4 may differ for that reason.
    """
    with report.check("same result for 1, 2 and 4 accumulation steps", trial.company) as found:
        folder = trial.config(WHOLE).folder
        one = learned_again(trial, folder, 1)
        worst, most = 0.0, 0
        for steps in (2, 4):
            other = learned_again(trial, folder, steps)
            pairs = zip(one.gradients, other.gradients, strict=True)
            apart = torch.stack([(mine - theirs).abs().max() for mine, theirs in pairs])
            worst = torch.stack([torch.tensor(worst), apart.max()]).max().item()  # unlike Python's, NaN if one is
            most = max(most, int((~((one.weights - other.weights).abs() <= TOLERANCE)).sum()))
            if name := differing_entry(one.state, other.state):
                found[:] = ["failed", f"state {name!r} differs with {steps} accumulation steps (count in after_step)."]
        count = one.weights.numel()
        figures = f"gradients within {worst:.0e}, {most} of {count} weights beyond {TOLERANCE:.0e}"
        if not worst <= TOLERANCE or most > APART * count:
            expected = "loss_terms must return a mean over the rows, whatever their number"
            found[:] = ["failed", f"{source_file(kind)}: {figures}; {expected}."]
        elif found[0] == "ok":
            found[1] = figures


def check_inside(kind: type[Method], trial: Trial, report: Report) -> None:
    """The last task gone on with after its first update, from its state on disk: the same bits."""
    with report.check("stopped inside a task = never stopped", trial.company) as found:
        folder = trial.config(WHOLE).folder
        work = PartialCheckpoint(trial.folder / "inside", LAST, "", print)
        with work.writer:
            whole = learned_again(trial, folder, 1, work)
            work.settle()
            again = learned_again(trial, folder, 1, work)
        if not torch.equal(whole.weights, again.weights):
            wanted = "what changes from update to update belongs in state_dict, loaded after before_task"
            found[:] = ["failed", f"{source_file(kind)}: the weights differ; {wanted}."]
        elif name := differing_entry(whole.state, again.state):
            found[:] = ["failed", f"{source_file(kind)}: state {name!r} differs."]
        elif len(again.gradients) >= len(whole.gradients):
            found[:] = ["not applicable", "no state was kept before the last update"]
        else:
            found[1] = "same bits"


def differing_entry(state: dict[str, Any], other: dict[str, Any]) -> str:
    """The first entry of a state that is clearly another value; empty if none is."""
    for name in sorted(state.keys() | other.keys()):
        mine, theirs = state.get(name), other.get(name)
        if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
            same = mine.shape == theirs.shape
            if same and mine.numel():  # to 1 % of the greatest value in them
                apart, most = (mine.float() - theirs.float()).abs().max(), mine.float().abs().max()
                same = bool(apart <= TOLERANCE + 1e-2 * most)
        elif isinstance(mine, int | float) and isinstance(theirs, int | float):
            same = abs(mine - theirs) <= TOLERANCE + 1e-2 * abs(mine)
        else:
            same = isinstance(mine, dict | list) or mine == theirs
        if not same:
            return name
    return ""


def check_adapter(kind: type[Method], trial: Trial, report: Report) -> None:
    """Two tasks with a LoRA adapter instead of the full weights."""
    with report.check("learns with a LoRA adapter", trial.company) as found:
        if trial.adapter == "lora":
            found[1] = "as in all of the above"
            return
        with_adapter = dataclasses.replace(trial, adapter="lora")
        if overrides(kind, "problems") and (against := refusals(with_adapter)):
            found[:] = ["not applicable", f"it refuses one: {' '.join(against)}"]
            return
        two_tasks(with_adapter, "lora")


def check_needs(kind: type[Method], traces: dict[Trial, Trace], report: Report) -> None:
    """What is read is declared, and what is declared is read, in at least one company."""
    with report.check("declared needs are honest") as found:
        method = made_method(kind, kind.Config())
        reads: dict[str, set[str]] = {}
        for trace in traces.values():
            for need, hooks in trace.reads.items():
                reads.setdefault(need, set()).update(hooks)
        problems = [
            f"{', '.join(sorted(hooks))} uses {need} without declaring it in `needs`: it is never given"
            for need, hooks in sorted(reads.items())
            if need not in method.needs and need != "views"
        ]
        problems += [
            f"declares {need} but never reads it"
            for need in sorted(method.needs & {"anchor", "fisher"} - reads.keys())
            if need != "anchor" or not ("views" in reads or method.kl_target == "anchor")
        ]
        found[:] = (
            ["failed", "; ".join(problems) + "."] if problems else ["ok", ", ".join(sorted(method.needs)) or "none"]
        )
