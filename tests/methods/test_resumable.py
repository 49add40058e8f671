"""A task stopped after any update and gone on with by new objects ends as if never stopped, bit by bit."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from clrft.runner.checkpoint import read_learned, write_learned
from methods import METHODS
from methods.model.policy import Policy
from methods.settings import KAHAN, WIDE, Optimizer, TrainConfig
from methods.training.fit import FitResult, FitSettings
from methods.training.state import Keeping, TrainingState
from task_streams import STREAMS, build_stream
from task_streams.types import TaskStream
from tests.methods.two_tasks import base_of, fresh_policy, learned, made

TRAIN = TrainConfig(updates=5, prompts_per_update=4, warmup=1, max_completion_tokens=20)  # two updates are one pass
PARTS = {"olora": {"rank": 2}}  # the adapter has rank 4, for two tasks


@pytest.fixture(scope="module")
def short() -> TaskStream:
    """Three tasks of eight examples each."""
    return build_stream("digits_cil", STREAMS["digits_cil"].config(shots=4, test_per_class=1, tasks=3), 1993)


@dataclasses.dataclass
class Ended:
    """What the second task ended with, and every state on the way."""

    weights: dict[str, Tensor]
    state: dict[str, Any]
    result: FitResult
    states: list[TrainingState]


def policy_of(way: str) -> Policy:
    """The embedded model in float32, with an adapter or without, or computing in bfloat16 with a named optimizer."""
    return fresh_policy("none", "bfloat16", way) if way in get_args(Optimizer) else fresh_policy(way)


def second_task(
    words: str, stream: TaskStream, folder: Path, train: TrainConfig, start: TrainingState | None, way: str, **own: Any
) -> Ended:
    """Learn the second task from the files of the first, which is learned when there are none yet."""
    learner, _, part = words.partition("+")
    make = made(learner, part or None, own, **PARTS.get(part, {}))
    policy, method = policy_of(way), make()
    if not (folder / "first").is_dir():
        settings = FitSettings(dataclasses.replace(train, updates=2), folder / "s")
        first = learned(method, policy, stream, 1, base_of(method, policy), settings)
        write_learned(folder / "first", policy, method, 1, first.moments)
        policy, method = policy_of(way), make()
    base = base_of(method, policy)  # what it is asked is counted by the policy's meter
    moments = read_learned(folder / "first", policy, method, 1)
    states: list[TrainingState] = []
    settings = FitSettings(train, folder / "scratch", keeping=Keeping(1, states.append))
    result = learned(method, policy, stream, 2, base, settings, moments, start)
    weights = {name: w.detach().clone() for name, w in policy.model.named_parameters() if w.requires_grad}
    return Ended(weights, method.state_dict(), result, states)


def assert_same_end(whole: Ended, again: Ended) -> None:
    assert whole.weights.keys() == again.weights.keys()
    assert [name for name, weight in whole.weights.items() if not torch.equal(weight, again.weights[name])] == []
    for name, value in whole.state.items():
        assert torch.equal(value, again.state[name]) if isinstance(value, Tensor) else value == again.state[name], name
    assert [row["step"] for row in again.result.steps] == [row["step"] for row in whole.result.steps]
    for mine, theirs in zip(whole.result.steps, again.result.steps, strict=True):
        differing = {name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)}
        assert differing <= {"step_seconds"}
    for name, moment in whole.result.moments.items():
        assert torch.equal(moment, again.result.moments[name]), name


@pytest.mark.parametrize(
    ("words", "changes", "own", "steps", "way"),
    [
        ("sft", {}, {}, (1, 3), "none"),
        ("sft", {"accumulation": 2, "carry_optimizer": True}, {}, (4,), "none"),
        ("grpo", {}, {"group_size": 4}, (1, 4), "none"),
        ("grpo", {"accumulation": 2}, {"group_size": 4}, (3,), "none"),
        ("grpo", {}, {"group_size": 4, "updates_per_batch": 2}, (2, 4), "none"),
        ("rapo", {}, {"group_size": 4, "preset": "released_code"}, (1,), "none"),
        ("sft", {}, {}, (3,), KAHAN),
        ("rapo", {"accumulation": 2, "carry_optimizer": True}, {"group_size": 4}, (3,), KAHAN),
        ("rapo", {"carry_optimizer": True}, {"group_size": 4}, (3,), WIDE),
        ("sft+olora", {}, {}, (3,), "lora"),
        ("grpo+olora", {}, {"group_size": 4}, (3,), "lora"),
        ("raft", {"updates": 8}, {"refresh": 3}, (4, 7), "none"),  # not 3 and 6: the next batch was read before
    ],
)
def test_a_task_stopped_after_any_update_ends_as_if_never_stopped(
    words: str, changes: Any, own: Any, steps: tuple[int, ...], way: str, short: TaskStream, tmp_path: Path
) -> None:
    train = dataclasses.replace(TRAIN, **changes)
    whole = second_task(words, short, tmp_path, train, None, way, **own)
    states = {state.step: state for state in whole.states}
    assert set(steps) <= set(states) and train.updates not in states
    assert words != "raft" or not {3, 6} & set(states)
    for step in steps:
        assert_same_end(whole, second_task(words, short, tmp_path, train, states[step], way, **own))


# Those above have cases of their own, nothing is trained by zero_shot, and joint methods learn like what they bound.
OTHERS = sorted(set(METHODS) - {"zero_shot", "sft", "grpo", "rapo", "olora", "joint_sft", "joint_grpo"})


@pytest.mark.parametrize("name", OTHERS)
def test_every_method_goes_on_inside_a_task(name: str, short: TaskStream, tmp_path: Path) -> None:
    method = METHODS[name]
    words = name if method.family != "part" else ("sft+" if "supervised" in method.joins else "grpo+") + name
    reinforcement = METHODS[words.partition("+")[0]].family == "reinforcement"
    own = {"group_size": 2} if reinforcement else {}
    train = dataclasses.replace(TRAIN, updates=3)
    whole = second_task(words, short, tmp_path, train, None, "none", **own)
    assert_same_end(whole, second_task(words, short, tmp_path, train, whole.states[-1], "none", **own))
