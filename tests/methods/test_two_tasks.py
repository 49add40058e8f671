"""Two tasks with every part and learner that keeps something: what survives a restart, adapters, and averages."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from methods.base import Method
from methods.settings import TrainConfig
from task_streams.types import TaskStream
from tests.methods.two_tasks import (
    TRAIN,
    TwoTasks,
    assert_other_weights,
    fresh_policy,
    made,
    never_stopped,
    two_tasks,
    without_part,
)

UNMOVED = pytest.approx(0, abs=1e-6)


def penalised(run: TwoTasks, figure: str, first: object = None, least: float = 0.0) -> None:
    """The first task has no penalty; ``first``: that of the second one before the weights have moved."""
    assert run.logged(1, figure) == [None, None]
    before, after = run.logged(2, figure)
    assert before is not None and (before > least if first is None else before == first)
    assert after is not None and after > least


def cpo_holds_a_tenth_of_each_task(run: TwoTasks) -> None:
    held = {name: value for name, value in run.method.state_dict().items() if value.numel() >= 100}
    # two tasks hold between 10 % (the same weights) and 20 % (others) of every large tensor
    assert all(0.09 < value.float().mean() <= 0.21 for value in held.values())


# A figure, and how near it is when the rows of an update are learned from in two halves.
HALVES = {"lwf": {"lwf_penalty": 1e-2}, "derpp": {"derpp_logits": 2e-2, "derpp_labels": 2e-2}}
EWC, OLORA = partial(penalised, figure="ewc_penalty", first=0), partial(penalised, figure="olora_penalty")


@pytest.mark.parametrize(
    ("learner", "part", "adapter", "settings", "also"),
    [
        ("sft", "l2", "none", {"strength": 50.0}, None),
        ("sft", "l2_init", "none", {"strength": 50.0}, None),
        ("sft", "ewc", "none", {"fisher_items": 2}, EWC),
        ("grpo", "ewc", "lora", {"fisher_items": 2}, EWC),
        ("grpo", "cpo", "none", {"strength": 100.0}, cpo_holds_a_tenth_of_each_task),
        ("sft", "cpo", "lora", {"strength": 100.0}, cpo_holds_a_tenth_of_each_task),
        ("sft", "wise", "none", {}, None),
        ("sft", "replay", "none", {"items": 4}, None),
        ("grpo", "replay", "none", {"items": 4}, None),
        ("sft", "olora", "lora", {"rank": 2}, OLORA),  # both tasks together have the rank of the adapter, 4
        ("grpo", "olora", "lora", {"rank": 2}, OLORA),
        ("sft", "lwf", "none", {"strength": 10.0}, partial(penalised, figure="lwf_penalty", first=UNMOVED, least=1e-4)),
        ("sft", "derpp", "none", {"items": 4}, partial(penalised, figure="derpp_logits", first=UNMOVED)),
    ],
)
def test_stopped_between_two_tasks_is_never_stopped(
    learner: str, part: str, adapter: str, settings: Any, also: Any, stream: TaskStream, tmp_path: Path
) -> None:
    make = made(learner, part, **settings)
    whole = never_stopped(make, stream, tmp_path, adapter)
    assert_other_weights(whole, without_part(learner, stream, tmp_path, adapter))
    if also is not None:
        also(whole)
    if part in HALVES:
        split = two_tasks(make, stream, tmp_path / "split", train=replace(TRAIN, accumulation=2))
        for name, near in HALVES[part].items():
            assert split.logged(2, name)[1] == pytest.approx(whole.logged(2, name)[1], rel=near, abs=1e-6)


def test_learners_of_own_answers_stopped_between_two_tasks_are_never_stopped(
    stream: TaskStream, tmp_path: Path
) -> None:
    whole = never_stopped(made("sdft"), stream, tmp_path / "sdft")
    assert_other_weights(whole, replace(whole, policy=fresh_policy()))
    assert all(value is not None and value > 0 for value in whole.logged(2, "sdft_loss"))
    train = TrainConfig(updates=3, prompts_per_update=4, warmup=0)  # the third batch is read after the first update
    anew, once = (
        made("raft", learner_settings={"answers": 1, "temperature": 2.0, "refresh": refresh}) for refresh in (1, 0)
    )
    whole = never_stopped(anew, stream, tmp_path / "raft", train=train)
    assert_other_weights(whole, two_tasks(once, stream, tmp_path / "once", train=train))


def l2_init_holds_it_to_its_first_weights(run: TwoTasks, stream: TaskStream) -> None:
    held = run.method.state_dict()
    assert held and all(name.startswith("l2_init.") and ".default." in name for name in held)
    assert all(value.abs().max() == 0 for name, value in held.items() if "lora_B" in name)


def answers_to_replayed_examples_are_kept(run: TwoTasks, stream: TaskStream) -> None:
    assert len(run.results[1].steps) == 2
    kept = run.method.learner.inner.kept  # type: ignore[attr-defined]
    assert kept.keys() & {example.key for example in stream.tasks[0].train}


def figure_is_above_zero(run: TwoTasks, stream: TaskStream, figure: str) -> None:
    value = run.logged(2, figure)[1]
    assert value is not None and value > 0


@pytest.mark.parametrize(
    ("make", "train", "also"),
    [
        (made("grpo", "l2_init"), TRAIN, l2_init_holds_it_to_its_first_weights),
        (made("sft", "lwf"), TRAIN, partial(figure_is_above_zero, figure="lwf_penalty")),
        (made("sft", "derpp", items=4), TRAIN, partial(figure_is_above_zero, figure="derpp_logits")),
        (made("raft", "replay", {"answers": 1, "refresh": 0}, items=4), TRAIN, answers_to_replayed_examples_are_kept),
        (made("sdft", "replay", items=4), replace(TRAIN, updates=1, accumulation=2), None),
    ],
    ids=["l2_init", "lwf", "derpp", "raft+replay", "sdft+replay"],
)
def test_it_works_with_an_adapter_alone_trained(
    make: Callable[[], Method], train: TrainConfig, also: Any, stream: TaskStream, tmp_path: Path
) -> None:
    run = two_tasks(make, stream, tmp_path, adapter="lora", train=train)
    assert all(".default." in name for name in run.weights())  # neither the anchor nor a teacher is trained
    if also is not None:
        also(run, stream)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_wise_ends_half_way_between_the_first_task_and_plain_training(
    adapter: str, stream: TaskStream, tmp_path: Path
) -> None:
    plain = without_part("sft", stream, tmp_path, adapter)
    averaged, back = (
        two_tasks(made("sft", "wise", share=share), stream, tmp_path / str(share), adapter=adapter)
        for share in (0.5, 0.0)
    )
    base = dict(fresh_policy(adapter).model.named_parameters())
    first, full = back.weights(), plain.weights()  # nothing of task 2; all of it
    for name, weight in averaged.weights().items():
        assert torch.allclose(weight, (first[name] + full[name]) / 2, atol=1e-7), name
    assert any(not torch.equal(weight, base[name]) for name, weight in first.items())  # task 1 was kept
