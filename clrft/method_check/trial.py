"""Short runs of a method on the embedded model: two tasks of two classes of digits, two updates each, on the CPU."""

import dataclasses
import hashlib
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from clrft.base_model import default_model_path
from clrft.config.run_config import RunConfig, build_config
from clrft.method_check.trace import Observer, Trace, digest
from clrft.runner.checkpoint import StageRecord, read_learned
from clrft.runner.partial_checkpoint import PartialCheckpoint
from clrft.runner.prepare import prepare
from clrft.runner.run import learn, open_folder
from clrft.runner.stage import train_stage
from clrft.runner.state import Run
from clrft.runs.layout import stage_folder
from clrft.sweep.executors import Setup
from clrft.sweep.local_workers import prepare as prepare_worker
from clrft.tracking.runs import Tracker
from clrft.utils.process_end import end_in_time
from clrft.utils.progress import Silent
from methods import build_method
from methods.guard import GuardedMethod, guarded_members
from methods.model.policy import load_policy
from task_streams import build_stream
from task_streams.errors import UserError

STREAM = "digits_cil"
SEED = 1993
LAST = 2  # the last of the stages
SMALL: dict[str, Any] = {
    "stream": {"tasks": LAST, "classes_per_task": 2, "shots": 8, "test_per_class": 1},
    "train": {"updates": 2, "prompts_per_update": 4, "warmup": 0},
    "evaluate": {"probe": 0, "drift_prompts": 0},
    "run": {"mlflow": False, "checkpoint_every": 0},
    "model": {"device": "cpu", "dtype": "float32"},
}


@dataclass(frozen=True, slots=True)
class Trial:
    """A method in the company that it is tried in."""

    name: str  # of the method that is tried
    words: str  # as on the command line, e.g. ``sft+ewc``.
    plugins: tuple[str, ...]  # files that it comes from
    folder: Path  # where its runs are kept
    adapter: str = "none"  # of the model that it is tried on, as in ``model.adapter``

    @property
    def company(self) -> str:
        """The learner that a part joins; a learner's own name."""
        return self.words.partition("+")[0]

    def config(self, run: str) -> RunConfig:
        """Configuration of one of its runs."""
        own = {
            "run": {"output": str(self.folder / run), "plugins": list(self.plugins)},
            "model": {"adapter": self.adapter},
        }
        return build_config(STREAM, self.words, "tiny", SEED, SMALL, own)


@dataclass(frozen=True, slots=True)
class Resumed:
    """What became of a run that went on in a process of its own."""

    state: dict[str, str] = field(default_factory=dict)  # digests of ``state_dict()`` right after ``load_state_dict``
    attributes: dict[str, str] = field(default_factory=dict)  # digests of the method's, when the second task began
    problem: str = ""  # why it did not go on; empty if it did


def member(state: Run, name: str) -> GuardedMethod:
    """The method of that name in a run."""
    return next(one for one in guarded_members(state.method) if one.name == name)


def refusals(trial: Trial) -> list[str]:
    """What the method has against the trial's model or its two tasks."""
    config = trial.config("asked")
    stream = build_stream(config.stream_name, config.stream, config.seed)
    policy = load_policy(config.model, str(default_model_path()), config.seed)
    method = build_method(config.method_name, config.method, config.parts)
    return method.problems(policy, list(Run(config, stream, policy, method, Silent()).tasks.values()))


def two_tasks(trial: Trial, run: str, trace: Trace | None = None) -> Path:
    """Run two tasks, or go on with them; ``trace`` gets what is observed of the method, also if the run fails."""
    config = trial.config(run)
    state = prepare(config, Silent())
    if trace is not None:
        Observer(state, member(state, trial.name), trace)
    open_folder(state)
    learn(state, Tracker(Path(config.run.output), config.run.sweep, enabled=False).cell(config.cell, {}, {}))
    return state.folder


def learned_files(folder: Path, stage: int) -> dict[str, str]:
    """SHA-256 of what a stage learned: weights and the method's state, by file."""
    root = stage_folder(folder, stage)
    found = sorted([*root.glob("weights/*.safetensors"), *root.glob("method_state.*")])
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def weights_of(folder: Path) -> list[str]:
    """SHA-256 of the files of weights that a run's last task left."""
    return [seal for name, seal in learned_files(folder, LAST).items() if name.startswith("weights/")]


@cache
def weights_alone(learner: str, adapter: str) -> list[str]:
    """``weights_of`` of a learner of the suite that learns the two tasks without parts."""
    with TemporaryDirectory(prefix="clrft-check-") as folder:
        return weights_of(two_tasks(Trial(learner, learner, (), Path(folder), adapter), "alone"))


def saved_state(folder: Path, stage: int, name: str) -> dict[str, str]:
    """Digest of every entry of a method's state on disk, by name."""
    from safetensors.torch import load_file

    root = stage_folder(folder, stage)
    values = json.loads((root / "method_state.json").read_text(encoding="utf-8"))
    tensors = load_file(root / "method_state.safetensors") if values["tensors"] else {}
    prefix = f"{name}." if "+" in values["method"] else ""
    named = {**values["values"], **tensors}
    return {key.removeprefix(prefix): digest(one) for key, one in named.items() if key.startswith(prefix)}


@dataclass(frozen=True, slots=True)
class Learned:
    """What task 2 came to: the clipped gradient of every update, all trained weights, and the method's state."""

    gradients: list[Tensor]
    weights: Tensor
    state: dict[str, Any]


def learned_again(trial: Trial, folder: Path, steps: int, work: PartialCheckpoint | None = None) -> Learned:
    """Task 2, learned from task 1's end with so many micro-batches per update, or from a state in ``work``."""
    config = trial.config("accumulated")
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, accumulation=steps),
        run=dataclasses.replace(config.run, checkpoint_every=0 if work is None else 1),
    )
    state = prepare(config, Silent())
    if not state.method.joint:
        state.moments = read_learned(stage_folder(folder, LAST - 1), state.policy, state.method, LAST - 1)
    gradients: list[Tensor] = []

    def keep(optimizer: Optimizer, *_: Any) -> None:
        found = [
            weight.grad for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None
        ]
        gradients.append(torch.cat([gradient.detach().flatten() for gradient in found]))

    handle = register_optimizer_step_pre_hook(keep)
    try:
        train_stage(state, LAST, trial.folder / "scratch", StageRecord(LAST, ""), lambda row: None, work)
    finally:
        handle.remove()
    weights = torch.cat([one.detach().flatten() for one in state.policy.model.parameters() if one.requires_grad])
    return Learned(gradients, weights, member(state, trial.name).state_dict())


def resume_elsewhere(trials: Sequence[Trial], run: str) -> dict[str, Resumed]:
    """Go on with runs that stopped after task 1 in a new process; by the words of each trial."""
    setup = Setup(torch.get_num_threads(), trials[0].plugins, 0)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), prepare_worker, (setup,)) as process:
        try:
            return {trial.words: process.submit(resumed, trial, run).result() for trial in trials}
        except Exception as error:  # of the method's own code, or the process is gone
            lost = Resumed(problem=f"the new process ended with {type(error).__name__}: {error}")
            return {trial.words: lost for trial in trials}
        finally:
            with suppress(BrokenProcessPool):
                process.submit(end_in_time, 0)  # what code of the method has left behind there is not waited for


def resumed(trial: Trial, run: str) -> Resumed:
    """Go on with a run that stopped after task 1, in this process."""
    config = trial.config(run)
    try:
        state = prepare(config, Silent())
        method = member(state, trial.name)
        read_learned(stage_folder(config.folder, LAST - 1), state.policy, state.method, LAST - 1)
        held = {
            key: digest(one if isinstance(one, Tensor) else json.loads(json.dumps(one)))
            for key, one in method.state_dict().items()
        }
        trace = Trace()
        two_tasks(trial, run, trace)
    except UserError as error:
        return Resumed(problem=str(error))
    return Resumed(held, trace.attributes)
