"""Any folder of clips, generated and real."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from task_streams.datasets.clip_folders import CIL, FEEDS, ClipCilConfig
from task_streams.prompt import request
from task_streams.scenarios.fingerprint import check_stream
from task_streams.sources.records import Workspace
from task_streams.types import Clip, Feed, TaskStream
from tests.shared_data import shared
from tests.task_streams.clips import write_clip, write_sound
from tests.task_streams.image_trees import problems_of, write_lines

CLASSES = ("arm wave", "bow", "clap", "dive")


def test_the_real_clips_become_a_stream(tmp_path: Path) -> None:
    root = shared("clips_mini")
    stream = built(root, Workspace(tmp_path), tasks=5, shots=None, test_per_class=None, on_copies="skip")
    assert len(stream.labels) == 10
    assert "10 of 11 classes are used" in stream.notes
    for example in (*stream.tasks[0].train, *stream.tasks[-1].test):
        clip = example.media()
        assert isinstance(clip, Clip)
        # 16 frames at 24 to 30 a second are 0.53 to 0.67 s: two frames
        assert [frame.size for frame in clip.frames] == [(128, 96)] * 2
    whole = built(root, tasks=1, classes_per_task=11, shots=None, test_per_class=None)
    assert (len(whole.tasks[0].train), len(whole.tasks[0].test)) == (65, 35)


def built(root: Path, workspace: Workspace | None = None, **changes: Any) -> TaskStream:
    settings: dict[str, Any] = {"tasks": 2, "classes_per_task": 2, "shots": 2, "test_per_class": 1} | changes
    return CIL.build(ClipCilConfig(root=str(root), **settings), 0, workspace or Workspace())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of four clips."""
    root = tmp_path_factory.mktemp("clips")
    for number, folder in enumerate(CLASSES):
        for i in range(4):
            write_clip(root / folder / f"{i}.mp4", 4 + number * 4 + i)
    return root


@pytest.fixture
def root(tree: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tree, tmp_path / "root"))


def test_class_folders_become_a_stream_with_a_hold_out(tree: Path) -> None:
    stream = built(tree)
    assert sorted(stream.labels) == sorted(CLASSES)
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(4, 2), (4, 2)]
    assert check_stream(stream) == []


def test_splits_are_kept_and_what_lies_beside_them_is_noted(root: Path) -> None:
    for split, numbers in (("train", (0, 1)), ("test", (2, 3))):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for number in numbers:
                (root / name / f"{number}.mp4").rename(root / split / name / f"{number}.mp4")
    for name in CLASSES[1:]:
        (root / name).rmdir()
    (root / "train" / "bow" / "notes.txt").write_text("x")
    stream = built(root)
    assert all(example.key.startswith("train/") for task in stream.tasks for example in task.train)
    assert all(example.key.startswith("test/") for task in stream.tasks for example in task.test)
    assert f"{CLASSES[0]} beside train and test left out" in stream.notes
    assert any(note.startswith("train/bow: 1 entries that are no items") for note in stream.notes)


@pytest.mark.parametrize("feed", FEEDS)
def test_a_clip_goes_in_as_its_setting_or_else_the_workspace_says(tree: Path, feed: Feed) -> None:
    for stream in (
        built(tree, feed=feed, fps=10, max_frames=3),
        built(tree, Workspace(feed=feed), fps=10, max_frames=3),
    ):
        example = stream.tasks[0].train[0]
        clip, asked = example.media(), request(example, ["bow"])
        assert isinstance(clip, Clip) and (stream.feed, clip.feed) == (feed, feed)
        types = [part["type"] for part in asked.messages[0]["content"]]
        assert types == (["image"] * 3 if feed == "images" else ["video"]) + ["text"]
        assert len(asked.media) == len(types) - 1
    assert built(tree, Workspace(feed=feed), feed="images").feed == "images"


def test_decoded_clips_are_kept_in_the_workspace_and_a_second_build_decodes_nothing(tree: Path, tmp_path: Path) -> None:
    first = built(tree, Workspace(tmp_path))
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()}
    assert len(kept) == 12  # 4 classes x (2 shots + 1 test)
    second = built(tree, Workspace(tmp_path))
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()} == kept
    clips = [[e.media() for task in stream.tasks for e in task.train] for stream in (first, second)]
    assert clips[0] == clips[1]


def test_unreadable_clips_and_a_class_without_any_are_all_named_at_once(root: Path) -> None:
    (root / "empty").mkdir()
    (root / "bow" / "0.mp4").write_bytes(b"")
    (root / "bow" / "1.mp4").write_text("no clip")
    write_sound(root / "clap" / "2.mp4")
    torn = root / "dive" / "3.mp4"
    torn.write_bytes(torn.read_bytes()[:-200])
    assert problems_of(lambda: built(root, shots=None, test_per_class=1)) == (
        "no items of 1 of the 5 classes: empty",
        "4 items cannot be decoded; repair or remove them, or set on_damaged=skip",
        "bow/0.mp4 (an empty file)",
        "bow/1.mp4 (no readable video: Invalid data found when processing input)",
        "clap/2.mp4 (no video in the file)",
        "dive/3.mp4 (no readable video: Invalid data found when processing input)",
    )


def test_a_tree_without_clips_and_half_a_split_say_what_was_expected(tmp_path: Path) -> None:
    write_lines(tmp_path / "bow" / "notes.txt", ["no clip"])
    (problem,) = problems_of(lambda: built(tmp_path))
    assert "expected <class>/<clip> with a clip's name ending in .3gp, .avi, " in problem
    assert problem.endswith("found bow, and no clip in there")
    write_clip(tmp_path / "train" / "bow" / "0.mp4", 4)
    told = f"{tmp_path}: found train/ alone; expected train and test clips, or neither"
    assert problems_of(lambda: built(tmp_path)) == (told,)
