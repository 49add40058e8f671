"""UCF-101's layout, generated and real, and every kind of mistake in its lists."""

import json
from pathlib import Path
from typing import Any

import pytest

from task_streams.datasets.ucf101 import Ucf101CilConfig, class_name, find_clips, ucf101_cil
from task_streams.errors import UserError
from task_streams.scenarios.fingerprint import check_stream
from task_streams.scenarios.shots import listed_records
from task_streams.sources.records import Workspace
from task_streams.types import Clip, TaskStream
from tests.shared_data import shared
from tests.task_streams.clips import write_clip
from tests.task_streams.image_trees import problems_of

CLASSES = ("Archery", "HandstandPushups", "YoYo")
LISTS = "ucfTrainTestlist"


def config(root: Path, **changes: Any) -> Ucf101CilConfig:
    settings: dict[str, Any] = {"tasks": 3, "classes_per_task": 1, "shots": 2, "test_per_class": 1} | changes
    return Ucf101CilConfig(root=str(root), **settings)


def built(root: Path, **changes: Any) -> TaskStream:
    return ucf101_cil(config(root, **changes), 0, Workspace())


def file_name(folder: str, group: int) -> str:
    return f"v_{folder.replace('HandstandP', 'HandStandP')}_g{group:02d}_c01.avi"  # as the official files are named


def write_ucf101(root: Path) -> Path:
    """Three classes in the official layout: groups 1 and 2 for testing, 3 to 5 for training; CRLF lists."""
    train: list[str] = []
    test: list[str] = []
    for label, folder in enumerate(CLASSES, start=1):
        for group in range(1, 6):
            write_clip(root / "UCF-101" / folder / file_name(folder, group), 3 + group + 5 * label)
            path = f"{folder}/{file_name(folder, group)}"
            (test if group < 3 else train).append(path if group < 3 else f"{path} {label}")
    write_list(root, "classInd", [f"{label} {name}" for label, name in enumerate(CLASSES, start=1)])
    write_list(root, "trainlist01", train)
    write_list(root, "testlist01", test)
    return root


def write_list(root: Path, name: str, rows: list[str]) -> None:
    (root / LISTS).mkdir(exist_ok=True)
    (root / LISTS / f"{name}.txt").write_bytes("".join(f"{row}\r\n" for row in rows).encode())


def rows_of(root: Path, name: str) -> list[str]:
    return (root / LISTS / f"{name}.txt").read_text().split("\n")[:-1]


def test_the_official_layout_becomes_a_stream(tmp_path: Path) -> None:
    stream = built(write_ucf101(tmp_path))
    assert sorted(label for task in stream.tasks for label in task.classes) == ["Archery", "Handstand_Pushups", "Yo_Yo"]
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(2, 1)] * 3
    assert check_stream(stream) == []
    pushups = stream.tasks[stream.task_of("Handstand_Pushups") - 1].train[0]
    assert pushups.key.startswith("UCF-101/HandstandPushups/v_HandStandPushups_g0")
    clip = pushups.media()
    assert isinstance(clip, Clip)
    assert (clip.feed, clip.fps) == ("images", 2.0)


def test_the_clips_settings_reach_the_decoder(tmp_path: Path) -> None:
    stream = built(write_ucf101(tmp_path), fps=10, max_frames=3, feed="video", max_side=16)
    clip = stream.tasks[0].train[0].media()
    assert isinstance(clip, Clip)
    assert (len(clip.frames), clip.feed, clip.frames[0].size) == (3, "video", (16, 16))


def test_a_class_name_is_split_at_its_capitals_as_in_the_released_lists() -> None:
    released = json.loads((shared("rapo_lists") / "video_cls_cil" / "ucf101_split01_metadata.json").read_text())
    assert len(released["class_name_map"]) == 101
    for folder, name in released["class_name_map"].items():
        assert class_name(folder) == name
    found = find_clips(shared("ucf101_mini").resolve(), 1)
    assert sorted(found.classes) == sorted(released["class_name_map"].values())


@pytest.mark.parametrize(("split", "train"), [(1, 9537), (2, 9586), (3, 9624)])
def test_the_real_lists_are_read_whole(split: int, train: int) -> None:
    # train and test counts as published; together the 13,320 clips of the dataset
    found = find_clips(shared("ucf101_mini").resolve(), split)
    parts = [record.split for record in found.records]
    assert (parts.count("train"), parts.count("test")) == (train, 13320 - train)
    assert found.problems == ()
    assert found.notes == ("13316 of 13320 listed clips are not on disk",)
    assert len(found.classes) == 101


def test_every_row_of_the_released_shots_resolves() -> None:
    shots = shared("rapo_lists") / "video_cls_cil" / "fewshot_lists" / "ucf101_split01_train_5shots.jsonl"
    chosen = listed_records(str(shots), find_clips(shared("ucf101_mini").resolve(), 1).records)
    train = [record for record in chosen if record.split == "train"]
    rows = [json.loads(row) for row in shots.read_text().splitlines()]
    assert len(train) == len(rows) == 505
    assert {Path(record.key).name for record in train} == {row["file_name"] for row in rows}
    counts = {record.label: 0 for record in train}
    for record in train:
        counts[record.label] += 1
    assert set(counts.values()) == {5}
    assert len(counts) == 101


def test_the_real_clips_that_are_there_are_decoded(tmp_path: Path) -> None:
    # of SoccerJuggling two clips of split 1 are here for training and none for testing: lists of these four alone
    real = shared("ucf101_mini") / "UCF-101"
    root = tmp_path / "ucf"
    root.mkdir()
    (root / "UCF-101").mkdir()
    for folder in sorted(real.iterdir()):
        (root / "UCF-101" / folder.name).mkdir()
        for clip in folder.iterdir():
            (root / "UCF-101" / folder.name / clip.name).write_bytes(clip.read_bytes())
    write_list(root, "classInd", ["1 SoccerJuggling"])
    write_list(root, "trainlist01", ["SoccerJuggling/v_SoccerJuggling_g23_c01.avi 1"])
    write_list(root, "testlist01", ["SoccerJuggling/v_SoccerJuggling_g24_c01.avi"])
    stream = built(root, tasks=1, shots=None, test_per_class=None)
    clips = [example.media() for task in stream.tasks for example in (*task.train, *task.test)]
    # 240 and 251 frames at 29.97 a second are 8.008 and 8.375 s: more than 16 half seconds
    assert [len(clip.frames) for clip in clips if isinstance(clip, Clip)] == [16, 16]


def problems(root: Path, **changes: Any) -> tuple[str, ...]:
    return problems_of(lambda: built(root, **changes))


def test_missing_and_unreadable_clips_are_all_named_at_once(tmp_path: Path) -> None:
    write_ucf101(tmp_path)
    clips = tmp_path / "UCF-101"
    (clips / "Archery" / file_name("Archery", 1)).unlink()
    (clips / "YoYo" / file_name("YoYo", 4)).write_bytes(b"")
    (clips / "YoYo" / file_name("YoYo", 5)).write_text("<html>404</html>")
    said = problems(tmp_path, shots=None, test_per_class=None)
    assert said == (
        "3 items cannot be decoded; repair or remove them, or set on_damaged=skip",
        "UCF-101/Archery/v_Archery_g01_c01.avi (No such file or directory)",
        "UCF-101/YoYo/v_YoYo_g04_c01.avi (an empty file)",
        "UCF-101/YoYo/v_YoYo_g05_c01.avi (no readable video: Invalid data found when processing input)",
    )


def test_missing_clips_are_left_out_on_request_and_counted(tmp_path: Path) -> None:
    write_ucf101(tmp_path)
    (tmp_path / "UCF-101" / "Archery" / file_name("Archery", 1)).unlink()
    stream = built(tmp_path, shots=None, test_per_class=None, on_damaged="skip")
    assert "1 of 15 listed clips are not on disk" in stream.notes
    assert any("1 damaged items skipped: UCF-101/Archery/v_Archery_g01_c01.avi" in note for note in stream.notes)


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        (
            "trainlist01",
            "Archary/v_Archary_g03_c01.avi 1",
            r"line 10: unknown class 'Archary'\. Did you mean 'Archery'",
        ),
        ("trainlist01", "Archery/v_Archery_g09_c01.avi 4", r"line 10: label '4' of Archery/.*; expected 1 to 3"),
        ("trainlist01", "Archery/v_Archery_g09_c01.avi 0", r"line 10: label '0' of Archery/.*; expected 1 to 3"),
        ("trainlist01", "Archery/v_Archery_g09_c01.avi one", r"line 10: label 'one' of Archery/.*; expected 1 to 3"),
        ("trainlist01", "Archery/v_Archery_g09_c01.avi 3", r"label 3 is YoYo, but Archery/.* is of Archery"),
        ("trainlist01", "Archery/v_Archery_g09_c01.avi", r"line 10: expected '<Class>/<file> <label>'; found 'Archery"),
        ("testlist01", "Archery/v_Archery_g09_c01.avi 1", r"testlist01.txt, line 7: expected '<Class>/<file>'; found"),
        ("testlist01", "v_Archery_g09_c01.avi", r"testlist01.txt, line 7: expected '<Class>/<file>'; found"),
        ("testlist01", "../v_Archery_g09_c01.avi", r"testlist01.txt, line 7: expected '<Class>/<file>'; found"),
        (
            "testlist01",
            "Archery/v_Archery_g03_c01.avi",
            r"split 1 lists 1 clips more than once: UCF-101/Archery/v_Arch",
        ),
        ("classInd", "5 Yo Yo", r"classInd.txt, line 4: expected '<label> <Class>'; found '5 Yo Yo'"),
        ("classInd", "3 Zumba", r"classInd.txt, line 4: '3 Zumba' names a label or class a second time"),
    ],
)
def test_a_damaged_line_is_named_with_what_was_expected(tmp_path: Path, name: str, row: str, said: str) -> None:
    write_ucf101(tmp_path)
    write_list(tmp_path, name, [*(line.strip() for line in rows_of(tmp_path, name)), row])
    with pytest.raises(UserError, match=said):
        built(tmp_path)


def test_all_damaged_lines_are_named_together(tmp_path: Path) -> None:
    write_ucf101(tmp_path)
    write_list(tmp_path, "trainlist01", ["nonsense", "Archery/v_Archery_g03_c01.avi 1", "YoYo/v_YoYo_g03_c01.avi 9"])
    said = problems(tmp_path, on_damaged="skip")
    assert [line.split(":")[0] for line in said[:2]] == ["trainlist01.txt, line 1", "trainlist01.txt, line 3"]


def test_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    root = write_ucf101(tmp_path / "root")
    outside = write_clip(tmp_path / "outside.avi", 4)
    inside = root / "UCF-101" / "YoYo" / file_name("YoYo", 4)
    inside.unlink()
    inside.symlink_to(outside)
    assert any("a link that leads out of" in line for line in problems(root))


def test_impossible_settings_are_all_named(tmp_path: Path) -> None:
    wrong = {"split": 4, "fps": 0.0, "max_frames": 1, "max_side": 0, "feed": "vdeo", "cache_mb": -1}
    assert set(problems_of(lambda: config(tmp_path, **wrong))) == {
        "fps: got 0.0, expected a number above 0.",
        "max_frames: got 1, expected a whole number from 2.",
        "max_side: got 0, expected a whole number from 1, or null.",
        "feed: got 'vdeo', expected one of auto, images, video. Did you mean 'video'?",
        "cache_mb: got -1, expected a whole number from 0.",
        "split: got 4, expected one of 1, 2, 3.",
    }
    for fps in (-2.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="expected a number above 0"):
            config(tmp_path, fps=fps)
