"""Rows for TRL's trainers: prompts and ground truth of one class list, media decoded ahead and once per group."""

import os
from functools import partial
from pathlib import Path

import dill
import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from methods.model.policy import Policy
from methods.training.dataset import reward_functions, rollout_dataset, target_dataset
from task_streams.prompt import target_text
from task_streams.types import Box, Clip, Example, Feed, Task

CAT, DOG = Box("cat", (0, 0, 500, 500)), Box("dog", (500, 500, 1000, 1000))


def grey(value: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (value, value, value))


def clip(feed: Feed) -> Clip:
    return Clip((grey(1), grey(2)), 2.0, feed)


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
        assert rewards == {"iou": 1.0, "category": 1.0, "format": 1.0}  # the target is worth all of the reward


def test_boxes_of_classes_that_the_prompt_does_not_list_are_not_rewarded() -> None:
    both = target_text((CAT, DOG), labels=("cat", "dog"))
    rewards = [f([reply(both)], key=["image"])[0] for f in reward_functions(detection("new_only"))]
    # one true box (dog) and one that was not asked for (cat): 1 match / max(1 true, 2 predicted)
    assert rewards == [0.5, 0.5, 1.0]


def test_a_clip_becomes_so_many_images_or_one_video() -> None:
    for feed, images, clips in (("images", 2, 0), ("video", 0, 1)):
        task = Task(1, "run", ("run",), ("run",), (Example("c", "run", partial(clip, feed), ""),), ())
        row = rollout_dataset(task)[0]
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
    examples = tuple(Example(name, "run", partial(marked, tmp_path, name), "") for name in ("a", "b"))
    dataset = rollout_dataset(Task(1, "run", ("run",), ("run",), examples, ()))
    rows = dataset[[0, 0, 0, 1, 1, 1]]
    assert rows["key"] == ["a", "a", "a", "b", "b", "b"]
    assert [len((tmp_path / name).read_text().split()) for name in ("a", "b")] == [1, 1]


def test_workers_decode_and_resize_in_processes_of_their_own(tmp_path: Path) -> None:
    examples = (Example("a", "run", partial(marked, tmp_path, "a"), ""),)
    task = Task(1, "run", ("run",), ("run",), examples, ())
    dataset = rollout_dataset(task, lambda asked: asked.fitted(lambda image: image.resize((4, 4))))
    (batch,) = DataLoader(dataset, batch_size=1, num_workers=1, collate_fn=list)  # type: ignore[arg-type]
    assert batch[0]["images"][0].size == (4, 4)
    assert np.asarray(batch[0]["images"][0]).max() == 7
    assert os.getpid() not in map(int, (tmp_path / "a").read_text().split())


def test_datasets_are_hashed_without_the_policys_weights(policy: Policy) -> None:
    assert len(dill.dumps(policy.prepared)) < 10_000  # the weights are millions of bytes
