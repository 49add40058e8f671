"""Any folder of clips, generated and real."""

from pathlib import Path
from typing import Any

import pytest

from task_streams.datasets.clip_folders import FEEDS, ClipCilConfig, clips_cil
from task_streams.errors import UserError
from task_streams.prompt import request
from task_streams.scenarios.fingerprint import check_stream
from task_streams.sources.records import Workspace
from task_streams.types import Clip, TaskStream
from tests.shared_data import shared
from tests.task_streams.clips import write_clip, write_sound
from tests.task_streams.image_trees import problems_of

CLASSES = ("arm wave", "bow", "clap", "dive")


def built(root: Path, workspace: Workspace | None = None, **changes: Any) -> TaskStream:
    settings: dict[str, Any] = {"tasks": 2, "classes_per_task": 2, "shots": 2, "test_per_class": 1} | changes
    return clips_cil(ClipCilConfig(root=str(root), **settings), 0, workspace or Workspace())


def write_clips(root: Path, folders: tuple[str, ...], count: int) -> Path:
    for number, folder in enumerate(folders):
        for i in range(count):
            write_clip(root / folder / f"{i}.mp4", 4 + number * count + i)
    return root


def test_class_folders_become_a_stream_with_a_hold_out(tmp_path: Path) -> None:
    stream = built(write_clips(tmp_path, CLASSES, 4))
    assert sorted(stream.labels) == sorted(CLASSES)
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(4, 2), (4, 2)]
    assert check_stream(stream) == []


def test_splits_are_kept_and_what_lies_beside_them_is_noted(tmp_path: Path) -> None:
    write_clips(tmp_path, tuple(f"{split}/{name}" for split in ("train", "test") for name in CLASSES), 2)
    (tmp_path / "test" / "bow" / "1.mp4").write_bytes(write_clip(tmp_path / "x.mp4", 33).read_bytes())
    (tmp_path / "extra").mkdir()
    (tmp_path / "train" / "bow" / "notes.txt").write_text("x")
    stream = built(tmp_path)
    assert all(example.key.startswith("train/") for task in stream.tasks for example in task.train)
    assert all(example.key.startswith("test/") for task in stream.tasks for example in task.test)
    assert "extra beside train and test left out" in stream.notes
    assert any(note.startswith("train/bow: 1 entries that are no items") for note in stream.notes)


def test_a_clip_is_asked_about_as_so_many_images_or_as_one_video(tmp_path: Path) -> None:
    write_clips(tmp_path, CLASSES, 4)
    for feed, kind in (("images", "image"), ("video", "video")):
        example = built(tmp_path, feed=feed, fps=10, max_frames=3).tasks[0].train[0]
        asked = request(example, ["bow"])
        types = [part["type"] for part in asked.messages[0]["content"]]
        assert types == ([kind] * 3 if feed == "images" else [kind]) + ["text"]
        assert len(asked.media) == len(types) - 1


def test_decoded_clips_are_kept_in_the_workspace_and_a_second_build_decodes_nothing(tmp_path: Path) -> None:
    write_clips(tmp_path / "data", CLASSES, 4)
    workspace = Workspace(tmp_path / "cache")
    first = built(tmp_path / "data", workspace)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "clips").iterdir()}
    assert len(kept) == 12  # 4 classes x (2 shots + 1 test)
    second = built(tmp_path / "data", workspace)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "clips").iterdir()} == kept
    clips = [[e.media() for task in stream.tasks for e in task.train] for stream in (first, second)]
    assert clips[0] == clips[1]


def test_unreadable_clips_are_all_named_at_once(tmp_path: Path) -> None:
    write_clips(tmp_path, CLASSES, 4)
    (tmp_path / "bow" / "0.mp4").write_bytes(b"")
    (tmp_path / "bow" / "1.mp4").write_text("no clip")
    write_sound(tmp_path / "clap" / "2.mp4")
    cut = tmp_path / "dive" / "3.mp4"
    cut.write_bytes(cut.read_bytes()[:-200])
    assert problems_of(lambda: built(tmp_path, shots=None, test_per_class=1)) == (
        "4 items cannot be decoded; repair or remove them, or set on_damaged=skip",
        "bow/0.mp4 (an empty file)",
        "bow/1.mp4 (no readable video: Invalid data found when processing input)",
        "clap/2.mp4 (no video in the file)",
        "dive/3.mp4 (no readable video: Invalid data found when processing input)",
    )


def test_a_tree_without_clips_and_half_a_split_say_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "bow").mkdir()
    (tmp_path / "bow" / "notes.txt").write_text("no clip")
    with pytest.raises(UserError, match=r"name ending in \.3gp, \.avi, .*; found bow, and no clip in there"):
        built(tmp_path)
    write_clips(tmp_path, ("train/bow",), 1)
    with pytest.raises(UserError, match="found train/ alone; expected train and test clips, or neither"):
        built(tmp_path)


def test_a_class_folder_without_clips_is_an_error(tmp_path: Path) -> None:
    write_clips(tmp_path, CLASSES, 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no items of 1 of the 5 classes: empty"):
        built(tmp_path)


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


def test_other_real_clips_need_no_splits() -> None:
    stream = built(shared("clips_other") / "hmdb51", tasks=1, classes_per_task=1, shots=1)
    assert stream.labels in (("wave",), ("cartwheel",))


def test_where_it_is_left_open_a_clip_goes_in_as_the_workspace_says(tmp_path: Path) -> None:
    write_clips(tmp_path, CLASSES, 4)
    for feed in FEEDS:
        stream = built(tmp_path, Workspace(feed=feed))
        clip = stream.tasks[0].test[0].media()
        assert isinstance(clip, Clip) and (stream.feed, clip.feed) == (feed, feed)
        assert built(tmp_path, Workspace(feed=feed), feed="images").feed == "images"
