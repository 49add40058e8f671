"""UCF-101's layout, generated and real, and every kind of mistake in its lists."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from task_streams.datasets.ucf101 import CIL, Ucf101CilConfig, class_name, ucf101
from task_streams.scenarios.fingerprint import check_stream
from task_streams.scenarios.shots import listed_records
from task_streams.sources.records import Workspace
from task_streams.types import Clip, TaskStream
from tests.shared_data import shared
from tests.task_streams.clips import write_clip
from tests.task_streams.image_trees import add_lines, problems_of, write_lines

CLASSES = ("Archery", "HandstandPushups", "YoYo")
LISTS = "ucfTrainTestlist"


def config(root: Path, **changes: Any) -> Ucf101CilConfig:
    settings: dict[str, Any] = {"tasks": 3, "classes_per_task": 1, "shots": 2, "test_per_class": 1} | changes
    return Ucf101CilConfig(root=str(root), **settings)


def built(root: Path, **changes: Any) -> TaskStream:
    return CIL.build(config(root, **changes), 0, Workspace())


def problems(root: Path, **changes: Any) -> tuple[str, ...]:
    return problems_of(lambda: built(root, **changes))


def file_name(folder: str, group: int) -> str:
    return f"v_{folder.replace('HandstandP', 'HandStandP')}_g{group:02d}_c01.avi"  # as the official files are named


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in the official layout: groups 1 and 2 for testing, 3 to 5 for training; CRLF lists."""
    root = tmp_path_factory.mktemp("ucf101")
    train: list[str] = []
    test: list[str] = []
    for label, folder in enumerate(CLASSES, start=1):
        for group in range(1, 6):
            write_clip(root / "UCF-101" / folder / file_name(folder, group), 3 + group + 5 * label)
            path = f"{folder}/{file_name(folder, group)}"
            (test if group < 3 else train).append(path if group < 3 else f"{path} {label}")
    write_lines(
        root / LISTS / "classInd.txt", [f"{label} {name}" for label, name in enumerate(CLASSES, start=1)], "\r\n"
    )
    write_lines(root / LISTS / "trainlist01.txt", train, "\r\n")
    write_lines(root / LISTS / "testlist01.txt", test, "\r\n")
    return root


@pytest.fixture
def root(archive: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(archive, tmp_path / "root"))


def test_the_official_layout_becomes_a_stream(archive: Path) -> None:
    stream = built(archive)
    assert sorted(label for task in stream.tasks for label in task.classes) == ["Archery", "Handstand_Pushups", "Yo_Yo"]
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(2, 1)] * 3
    assert check_stream(stream) == []
    pushups = stream.tasks[stream.task_of("Handstand_Pushups") - 1].train[0]
    assert pushups.key.startswith("UCF-101/HandstandPushups/v_HandStandPushups_g0")
    clip = pushups.media()
    assert isinstance(clip, Clip)
    assert (clip.feed, clip.fps) == ("images", 2.0)


def test_the_clips_settings_reach_the_decoder(archive: Path) -> None:
    clip = built(archive, fps=10, max_frames=3, feed="video", max_side=16).tasks[0].train[0].media()
    assert isinstance(clip, Clip)
    assert (len(clip.frames), clip.feed, clip.frames[0].size) == (3, "video", (16, 16))


def test_a_class_name_is_split_at_its_capitals_as_in_the_released_lists() -> None:
    released = json.loads((shared("rapo_lists") / "video_cls_cil" / "ucf101_split01_metadata.json").read_text())
    assert len(released["class_name_map"]) == 101
    assert {folder: class_name(folder) for folder in released["class_name_map"]} == released["class_name_map"]
    found = ucf101(config(shared("ucf101_mini")))
    assert sorted(found.classes) == sorted(released["class_name_map"].values())


@pytest.mark.parametrize(("split", "train"), [(1, 9537), (2, 9586), (3, 9624)])
def test_the_real_lists_are_read_whole(split: int, train: int) -> None:
    # train and test counts as published; together the 13,320 clips of the dataset
    found = ucf101(config(shared("ucf101_mini"), split=split))
    assert Counter(record.split for record in found.records) == {"train": train, "test": 13320 - train}
    assert (found.problems, found.notes) == ((), ("13316 of 13320 listed clips are not on disk",))
    assert len(found.classes) == 101


def test_every_row_of_the_released_shots_resolves() -> None:
    shots = shared("rapo_lists") / "video_cls_cil" / "fewshot_lists" / "ucf101_split01_train_5shots.jsonl"
    chosen = listed_records(str(shots), ucf101(config(shared("ucf101_mini"))).records)
    train = [record for record in chosen if record.split == "train"]
    rows = [json.loads(row) for row in shots.read_text().splitlines()]
    assert len(train) == len(rows) == 505
    assert {Path(record.key).name for record in train} == {row["file_name"] for row in rows}
    assert list(Counter(record.label for record in train).values()) == [5] * 101


def test_missing_and_unreadable_clips_are_all_named_at_once_or_left_out_on_request(root: Path) -> None:
    clips = root / "UCF-101"
    (clips / "Archery" / file_name("Archery", 1)).unlink()
    whole = built(root, shots=None, test_per_class=None, on_damaged="skip")
    assert "1 of 15 listed clips are not on disk" in whole.notes
    assert any("1 damaged items skipped: UCF-101/Archery/v_Archery_g01_c01.avi" in note for note in whole.notes)
    (clips / "YoYo" / file_name("YoYo", 4)).write_bytes(b"")
    (clips / "YoYo" / file_name("YoYo", 5)).write_text("<html>404</html>")
    assert problems(root, shots=None, test_per_class=None) == (
        "3 items cannot be decoded; repair or remove them, or set on_damaged=skip",
        "UCF-101/Archery/v_Archery_g01_c01.avi (No such file or directory)",
        "UCF-101/YoYo/v_YoYo_g04_c01.avi (an empty file)",
        "UCF-101/YoYo/v_YoYo_g05_c01.avi (no readable video: Invalid data found when processing input)",
    )


def test_every_damaged_line_is_named_with_what_was_expected(root: Path) -> None:
    add_lines(root / LISTS / "classInd.txt", "5 Yo Yo", "3 Zumba")
    clip = "Archery/v_Archery_g09_c01.avi"
    add_lines(root / LISTS / "trainlist01.txt", "Archary/v_Archary_g03_c01.avi 1", f"{clip} 4", f"{clip} 0")
    add_lines(root / LISTS / "trainlist01.txt", f"{clip} one", f"{clip} 3", clip)
    add_lines(root / LISTS / "testlist01.txt", f"{clip} 1", "v_Archery_g09_c01.avi", "../v_Archery_g09_c01.avi")
    add_lines(root / LISTS / "testlist01.txt", "Archery/v_Archery_g03_c01.avi")
    lines, paths = "expected '<Class>/<file> <label>'; found", "expected '<Class>/<file>'; found"
    assert problems(root) == (
        "classInd.txt, line 4: expected '<label> <Class>'; found '5 Yo Yo'",
        "classInd.txt, line 5: '3 Zumba' names a label or class a second time",
        "trainlist01.txt, line 10: unknown class 'Archary'. Did you mean 'Archery'? "
        "Known: Archery, HandstandPushups, YoYo.",
        f"trainlist01.txt, line 11: label '4' of {clip}; expected 1 to 3",
        f"trainlist01.txt, line 12: label '0' of {clip}; expected 1 to 3",
        f"trainlist01.txt, line 13: label 'one' of {clip}; expected 1 to 3",
        f"trainlist01.txt, line 14: label 3 is YoYo, but {clip} is of Archery",
        f"trainlist01.txt, line 15: {lines} '{clip}'",
        f"testlist01.txt, line 7: {paths} '{clip} 1'",
        f"testlist01.txt, line 8: {paths} 'v_Archery_g09_c01.avi'",
        f"testlist01.txt, line 9: {paths} '../v_Archery_g09_c01.avi'",
        f"{LISTS}: split 1 lists 1 clips more than once: UCF-101/Archery/v_Archery_g03_c01.avi",
    )


def test_a_link_out_of_the_root_is_refused(root: Path) -> None:
    inside = root / "UCF-101" / "YoYo" / file_name("YoYo", 4)
    inside.rename(root.parent / "outside.avi")
    inside.symlink_to(root.parent / "outside.avi")
    assert any("a link that leads out of" in line for line in problems(root))


def test_impossible_settings_are_all_named(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {"split": 4, "fps": 0.0, "max_frames": 1, "max_side": 0, "feed": "vdeo", "cache_mb": -1}
    assert set(problems_of(lambda: config(tmp_path, **wrong))) == {
        "fps: got 0.0, expected a number above 0.",
        "max_frames: got 1, expected a whole number from 2.",
        "max_side: got 0, expected a whole number from 1, or null.",
        "feed: got 'vdeo', expected one of auto, images, video. Did you mean 'video'?",
        "cache_mb: got -1, expected a whole number from 0.",
        "split: got 4, expected one of 1, 2, 3.",
    }
    for fps in (-2.0, float("nan"), float("inf")):
        assert "expected a number above 0" in problems_of(lambda fps=fps: config(tmp_path, fps=fps))[0]
