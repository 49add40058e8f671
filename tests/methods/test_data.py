"""Rows for TRL's trainers, media decoded ahead and once per group; which examples are remembered and mixed in."""

import os
from collections import Counter
from functools import partial
from pathlib import Path

import dill
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from methods.base import ReplayPlan
from methods.model.policy import Policy
from methods.parts.replay import Replay, ReplayConfig
from methods.training.dataset import reward_functions, rollout_dataset, target_dataset
from methods.training.replay_memory import mixed, remembered
from task_streams.prompt import target_text
from task_streams.types import Box, Clip, Example, Task, TaskStream
from tests.methods.two_tasks import made

CAT, DOG = Box("cat", (0, 0, 500, 500)), Box("dog", (500, 500, 1000, 1000))


def grey(value: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (value, value, value))


def run_task(*examples: Example) -> Task:
    return Task(1, "run", ("run",), ("run",), examples, ())


def detection(annotation: str) -> Task:
    """Task 2, which teaches dog after cat; its one image shows both."""
    example = Example("image", (CAT, DOG), partial(grey, 3), "content")
    return Task(2, "dog", ("dog",), ("cat", "dog"), (example,), (), "detection", annotation)  # type: ignore[arg-type]


def reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_prompt_target_and_reward_follow_one_list_of_classes() -> None:
    for annotation, listed, absent in (("seen", "cat, dog", None), ("new_only", "dog", "cat")):
        task = detection(annotation)
        row = target_dataset(task, "I see {label} here")[0]
        asked = row["prompt"][0]["content"][-1]["text"]
        wanted = row["completion"][0]["content"][0]["text"]
        assert f"these categories: {listed}." in asked
        assert f"I see {listed} here" in wanted
        assert absent is None or f'"{absent}"' not in wanted
        rewards = {f.__name__: f([reply(wanted)], key=["image"])[0] for f in reward_functions(task)}
        # the target is worth all of the reward
        assert list(rewards.items()) == [("iou", 1.0), ("category", 1.0), ("format", 1.0)]


def test_boxes_of_classes_that_the_prompt_does_not_list_are_not_rewarded() -> None:
    both = target_text((CAT, DOG), labels=("cat", "dog"))
    rewards = [f([reply(both)], key=["image"])[0] for f in reward_functions(detection("new_only"))]
    # one true box (dog) and one that was not asked for (cat): 1 match / max(1 true, 2 predicted)
    assert rewards == [0.5, 0.5, 1.0]


def test_a_clip_becomes_so_many_images_or_one_video() -> None:
    for feed, images, clips in (("images", 2, 0), ("video", 0, 1)):
        clip = Clip((grey(1), grey(2)), 2.0, feed)  # type: ignore[arg-type]
        row = rollout_dataset(run_task(Example("c", "run", lambda clip=clip: clip, "")))[0]  # type: ignore[misc]
        assert (len(row["images"]), len(row["clips"])) == (images, clips)
        kinds = [part["type"] for part in row["prompt"][0]["content"]]
        assert kinds == ["image"] * images + ["video"] * clips + ["text"]
        assert "What does the video show?" in row["prompt"][0]["content"][-1]["text"]


def marked(folder: Path, name: str) -> Image.Image:
    """An image that leaves a mark each time it is decoded: who did it."""
    with (folder / name).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return grey(7)


def test_a_group_decodes_its_image_once(tmp_path: Path) -> None:
    examples = [Example(name, "run", partial(marked, tmp_path, name), "") for name in ("a", "b")]
    rows = rollout_dataset(run_task(*examples))[[0, 0, 0, 1, 1, 1]]
    assert rows["key"] == ["a", "a", "a", "b", "b", "b"]
    assert [len((tmp_path / name).read_text().split()) for name in ("a", "b")] == [1, 1]


def test_workers_decode_and_resize_in_processes_of_their_own(tmp_path: Path) -> None:
    task = run_task(Example("a", "run", partial(marked, tmp_path, "a"), ""))
    dataset = rollout_dataset(task, lambda asked: asked.fitted(lambda image: image.resize((4, 4))))
    (batch,) = DataLoader(dataset, batch_size=1, num_workers=1, collate_fn=list)  # type: ignore[arg-type]
    assert batch[0]["images"][0].size == (4, 4)
    assert np.asarray(batch[0]["images"][0]).max() == 7
    assert os.getpid() not in map(int, (tmp_path / "a").read_text().split())


def test_datasets_are_hashed_without_the_policys_weights(policy: Policy) -> None:
    assert len(dill.dumps(policy.prepared)) < 10_000  # the weights are millions of bytes


def test_tasks_and_classes_have_equal_shares_and_the_choice_follows_the_seed(stream: TaskStream) -> None:
    chosen = remembered(stream.tasks[:3], 8, seed=5)
    owner = {example.key: task.index for task in stream.tasks for example in task.train}
    # 8 of three tasks: 3, 3, 2; of a task's two classes 2 and 1, or 1 and 1
    assert Counter(owner[example.key] for example in chosen) == {1: 3, 2: 3, 3: 2}
    for task, expected in ((1, [1, 2]), (2, [1, 2]), (3, [1, 1])):
        labels = Counter(example.label for example in chosen if owner[example.key] == task)
        assert sorted(labels.values()) == expected
    keys = {seed: [e.key for e in remembered(stream.tasks[:2], 6, seed)] for seed in (5, 6)}
    assert [e.key for e in remembered(stream.tasks[:2], 6, 5)] == keys[5]
    assert keys[5] != keys[6]


@pytest.mark.parametrize("items", [3, 5, 10])
def test_a_task_is_forgotten_example_by_example_and_none_comes_back(items: int, stream: TaskStream) -> None:
    for known in (1, 2, 3, 4):
        before = {e.key for e in remembered(stream.tasks[:known], items, 5)}
        after = {e.key for e in remembered(stream.tasks[: known + 1], items, 5)}
        newest = {e.key for e in stream.tasks[known].train}
        assert len(after) == items
        assert after - newest <= before


def test_a_memory_larger_than_a_task_holds_all_of_it_once(stream: TaskStream) -> None:
    task = stream.tasks[0]
    assert sorted(e.key for e in remembered([task], 1000, 5)) == sorted(e.key for e in task.train)


def test_replayed_examples_have_their_share_of_the_task(stream: TaskStream) -> None:
    task, memory = stream.tasks[1], remembered(stream.tasks[:1], 6, 5)
    own = {example.key for example in task.train}
    # 16 examples; m / (16 + m) = 1/2: m = 16; 1/4: m = 16/3, rounded 5; 1/100: m = 0.16, at least 1
    for share, expected in ((0.5, 16), (0.25, 5), (0.01, 1)):
        replayed = [e for e in mixed(task, memory, ReplayPlan(6, share)).train if e.key not in own]
        assert len(replayed) == expected
    counts = Counter(e.key for e in mixed(task, memory, ReplayPlan(6, 0.5)).train if e.key not in own)
    assert sorted(counts.values()) == [2, 2, 3, 3, 3, 3]  # 16 rows of 6 examples
    assert mixed(task, (), ReplayPlan(6, 0.5)) is task


def test_a_share_of_zero_leaves_the_memory_to_the_method(stream: TaskStream) -> None:
    task, memory = stream.tasks[1], remembered(stream.tasks[:1], 4, 5)
    assert mixed(task, memory, made("sft", "derpp")().replay) is mixed(task, memory, None) is task
    assert len(mixed(task, memory, made("sft", "replay")().replay).train) == 32
    method = Replay(ReplayConfig(items=7, share=0.25))
    assert method.needs == {"replay"}
    assert method.replay == ReplayPlan(7, 0.25)
