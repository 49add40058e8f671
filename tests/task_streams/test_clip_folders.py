"""UCF-101, Kinetics and any folder of clips, generated and real, and every mistake in their lists."""

import json
import shutil
from collections import Counter
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from task_streams.datasets.kinetics import Kinetics200CilConfig, kinetics
from task_streams.datasets.ucf101 import Ucf101CilConfig, class_name, ucf101
from task_streams.prompt import request
from task_streams.scenarios.fingerprint import check_stream
from task_streams.scenarios.shots import listed_records
from task_streams.sources.records import Found, Workspace
from task_streams.types import Clip, Feed
from tests.shared_data import shared
from tests.task_streams.clips import write_clip, write_sound
from tests.task_streams.streams import add_lines, built, problems_of, sizes, write_lines

ACTIONS = ("Archery", "HandstandPushups", "YoYo")
LISTS = "ucfTrainTestlist"


SETTINGS: dict[str, Any] = {"tasks": 3, "classes_per_task": 1, "shots": 2, "test_per_class": 1}
ucf101_stream = partial(built, "ucf101_cil", **SETTINGS)


def real_ucf101(**changes: Any) -> Found:
    return ucf101(Ucf101CilConfig(root=str(shared("ucf101_mini")), **changes))


def problems(ucf: Path, **changes: Any) -> tuple[str, ...]:
    return problems_of(lambda: ucf101_stream(ucf, **changes))


def file_name(folder: str, group: int) -> str:
    return f"v_{folder.replace('HandstandP', 'HandStandP')}_g{group:02d}_c01.avi"  # as the official files are named


def copy_of(tree: str) -> Any:
    """A fixture: a copy of a tree that a test may change."""

    @pytest.fixture
    def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        return Path(shutil.copytree(request.getfixturevalue(tree), tmp_path / "copy"))

    return copy


ucf, kin, root = copy_of("ucf101_tree"), copy_of("kinetics_tree"), copy_of("clips_tree")


@pytest.fixture(scope="module")
def ucf101_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in the official layout: groups 1 and 2 for testing, 3 to 5 for training; CRLF lists."""
    ucf = tmp_path_factory.mktemp("ucf101")
    classes = list(enumerate(ACTIONS, start=1))
    clips = [(f"{name}/{file_name(name, group)}", label, group) for label, name in classes for group in range(1, 6)]
    for path, label, group in clips:
        write_clip(ucf / "UCF-101" / path, 3 + group + 5 * label)
    for name, rows in (
        ("classInd.txt", [f"{label} {name}" for label, name in classes]),
        ("trainlist01.txt", [f"{path} {label}" for path, label, group in clips if group >= 3]),
        ("testlist01.txt", [path for path, _, group in clips if group < 3]),
    ):
        write_lines(ucf / LISTS / name, rows, "\r\n")
    return ucf


def test_the_official_layout_becomes_a_stream_and_the_clips_settings_reach_the_decoder(ucf101_tree: Path) -> None:
    stream = ucf101_stream(ucf101_tree)
    assert sorted(label for task in stream.tasks for label in task.classes) == ["Archery", "Handstand_Pushups", "Yo_Yo"]
    assert sizes(stream) == [(2, 1)] * 3
    pushups = stream.tasks[stream.task_of("Handstand_Pushups") - 1].train[0]
    assert pushups.key.startswith("UCF-101/HandstandPushups/v_HandStandPushups_g0")
    clip = pushups.media()
    assert isinstance(clip, Clip)
    assert (clip.feed, clip.fps) == ("images", 2.0)
    clip = ucf101_stream(ucf101_tree, fps=10, max_frames=3, feed="video", max_side=16).tasks[0].train[0].media()
    assert isinstance(clip, Clip)
    assert (len(clip.frames), clip.feed, clip.frames[0].size) == (3, "video", (16, 16))


@pytest.mark.parametrize(("split", "train"), [(1, 9537), (2, 9586), (3, 9624)])
def test_the_real_lists_are_read_whole(split: int, train: int) -> None:
    # train and test counts as published; together the 13,320 clips of the dataset
    found = real_ucf101(split=split)
    assert Counter(record.split for record in found.records) == {"train": train, "test": 13320 - train}
    assert (found.problems, found.notes) == ((), ("13316 of 13320 listed clips are not on disk",))
    assert len(found.classes) == 101


def test_class_names_are_split_at_their_capitals_as_in_the_released_lists_of_which_every_row_resolves() -> None:
    released = json.loads((shared("rapo_lists") / "video_cls_cil" / "ucf101_split01_metadata.json").read_text())
    assert len(released["class_name_map"]) == 101
    assert {folder: class_name(folder) for folder in released["class_name_map"]} == released["class_name_map"]
    found = real_ucf101()
    assert sorted(found.classes) == sorted(released["class_name_map"].values())
    shots = shared("rapo_lists") / "video_cls_cil" / "fewshot_lists" / "ucf101_split01_train_5shots.jsonl"
    chosen = listed_records(str(shots), found.records)
    train = [record for record in chosen if record.split == "train"]
    rows = [json.loads(row) for row in shots.read_text().splitlines()]
    assert len(train) == len(rows) == 505
    assert {Path(record.key).name for record in train} == {row["file_name"] for row in rows}
    assert list(Counter(record.label for record in train).values()) == [5] * 101


def test_missing_and_unreadable_clips_are_all_named_at_once_or_left_out_on_request(ucf: Path) -> None:
    clips = ucf / "UCF-101"
    (clips / "Archery" / file_name("Archery", 1)).unlink()
    whole = ucf101_stream(ucf, shots=None, test_per_class=None, on_damaged="skip")
    assert "1 of 15 listed clips are not on disk" in whole.notes
    assert any("1 damaged items skipped: UCF-101/Archery/v_Archery_g01_c01.avi" in note for note in whole.notes)
    (clips / "YoYo" / file_name("YoYo", 4)).write_bytes(b"")
    (clips / "YoYo" / file_name("YoYo", 5)).write_text("<html>404</html>")
    assert problems(ucf, shots=None, test_per_class=None) == (
        "3 items cannot be decoded; repair or remove them, or set on_damaged=skip",
        "UCF-101/Archery/v_Archery_g01_c01.avi (No such file or directory)",
        "UCF-101/YoYo/v_YoYo_g04_c01.avi (an empty file)",
        "UCF-101/YoYo/v_YoYo_g05_c01.avi (no readable video: Invalid data found when processing input)",
    )


def test_every_damaged_line_is_named_with_what_was_expected_and_a_link_out_of_the_root(ucf: Path) -> None:
    inside = ucf / "UCF-101" / "YoYo" / file_name("YoYo", 4)
    inside.rename(ucf.parent / "outside.avi")
    inside.symlink_to(ucf.parent / "outside.avi")
    add_lines(ucf / LISTS / "classInd.txt", "5 Yo Yo", "3 Zumba")
    clip = "Archery/v_Archery_g09_c01.avi"
    add_lines(ucf / LISTS / "trainlist01.txt", "Archary/v_Archary_g03_c01.avi 1", f"{clip} 4", f"{clip} 0")
    add_lines(ucf / LISTS / "trainlist01.txt", f"{clip} one", f"{clip} 3", clip)
    add_lines(ucf / LISTS / "testlist01.txt", f"{clip} 1", "v_Archery_g09_c01.avi", "../v_Archery_g09_c01.avi")
    add_lines(ucf / LISTS / "testlist01.txt", "Archery/v_Archery_g03_c01.avi")
    lines, paths = "expected '<Class>/<file> <label>'; found", "expected '<Class>/<file>'; found"
    assert problems(ucf) == (
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
        f"{inside}: a link that leads out of {ucf}; refused (set links=anywhere to follow links)",
    )


def test_impossible_settings_are_all_named() -> None:
    wrong: dict[str, Any] = {"split": 4, "fps": 0.0, "max_frames": 1, "max_side": 0, "feed": "vdeo", "cache_mb": -1}
    assert set(problems_of(lambda: Ucf101CilConfig(root="x", **wrong))) == {
        "fps: got 0.0, expected a number above 0.",
        "max_frames: got 1, expected a whole number from 2.",
        "max_side: got 0, expected a whole number from 1, or null.",
        "feed: got 'vdeo', expected one of auto, images, video. Did you mean 'video'?",
        "cache_mb: got -1, expected a whole number from 0.",
        "split: got 4, expected one of 1, 2, 3.",
    }
    for fps in (-2.0, float("nan"), float("inf")):
        assert "expected a number above 0" in problems_of(lambda fps=fps: Ucf101CilConfig(root="x", fps=fps))[0]


LABELS = ("arm wrestling", "petting animal (not cat)", "using segway")
HEAD = "label,youtube_id,time_start,time_end,split,is_cc"


kinetics_stream = partial(built, "kinetics200_cil", **SETTINGS)


@pytest.fixture(scope="module")
def kinetics_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes with 3 training and 2 validation clips each, in class folders below the splits, with the lists."""
    kin = tmp_path_factory.mktemp("kinetics")
    number = 0
    for split, count in (("train", 3), ("val", 2)):
        rows = []
        for label in LABELS:
            for i in range(count):
                number += 1
                name = f"-{split}_{number:07d}_{20 + i:06d}_{30 + i:06d}.mp4"
                write_clip(kin / split / label.replace(" ", "_") / name, 4 + number)
                rows.append(f"{label},-{split}_{number:07d},{20 + i},{30 + i},{split},0")
        write_lines(kin / f"{split}.csv", [HEAD, *rows])
    return kin


@pytest.mark.parametrize(("flat", "lists"), [(True, ""), (False, "annotations")])
def test_clips_are_found_by_the_official_lists_wherever_they_lie(kin: Path, flat: bool, lists: str) -> None:
    if flat:
        for clip in list(kin.rglob("*.mp4")):
            clip.rename(clip.parents[1] / clip.name)
    (kin / lists).mkdir(exist_ok=True)
    for name in ("train.csv", "val.csv"):
        (kin / name).rename(kin / lists / name)
    stream = kinetics_stream(kin)
    assert sorted(stream.labels) == sorted(LABELS)
    assert sizes(stream) == [(2, 1)] * 3
    assert all(e.key.startswith("val/") for task in stream.tasks for e in task.test)


def test_without_lists_class_folders_count_and_validation_is_for_testing(kin: Path) -> None:
    (kin / "val.csv").unlink()
    (problem,) = problems_of(lambda: kinetics_stream(kin))
    assert problem.endswith("found train.csv alone; expected train.csv and val.csv")
    (kin / "train.csv").unlink()
    (kin / "test").mkdir()
    stream = kinetics_stream(kin)
    assert sorted(stream.labels) == sorted(label.replace(" ", "_") for label in LABELS)
    assert all(e.key.startswith("val/") for task in stream.tasks for e in task.test)
    assert "test beside train and val left out" in stream.notes


def test_vanished_videos_are_counted_and_a_class_without_any_is_an_error(kin: Path) -> None:
    add_lines(kin / "train.csv", "arm wrestling,vanished000,1,11,train,0", "using segway,vanished001,1,11,train,0")
    assert "train.csv: 2 of 11 listed clips are not on disk" in kinetics_stream(kin).notes
    add_lines(kin / "val.csv", "yoga,vanished002,1,11,val,0")
    told = "val.csv: none of the listed clips of 1 classes are on disk: yoga"
    assert told in problems_of(lambda: kinetics_stream(kin))


def test_a_subsets_list_of_videos_chooses_among_the_clips(kin: Path) -> None:
    wanted = [row.split(",")[1] for row in (kin / "train.csv").read_text().splitlines()[1:] if "segway" not in row]
    write_lines(kin / "train_ytid_list.txt", wanted[1:], "\r\n")
    found = kinetics(Kinetics200CilConfig(root=str(kin)))
    train = [record for record in found.records if record.split == "train"]
    assert len(train) == 5  # 3 + 3 clips of two classes, without the first
    assert {record.label for record in train} == set(LABELS[:2])


def test_damaged_rows_and_a_list_without_its_columns_are_named(kin: Path) -> None:
    add_lines(kin / "train.csv", "arm wrestling,abc,ten,20,train,0", "arm wrestling", 'yoga,"abc,10,20')
    add_lines(kin / "val.csv", ",abc,10,20,val,0")
    expected = "expected label,youtube_id,time_start,time_end; found"
    assert problems_of(lambda: kinetics_stream(kin)) == (
        f"train.csv, line 11: {expected} 'arm wrestling,abc,ten,20,train,0'",
        f"train.csv, line 12: {expected} 'arm wrestling'",
        f"train.csv, line 13: {expected} 'yoga,abc,10,20'",
        f"val.csv, line 8: {expected} ',abc,10,20,val,0'",
    )
    write_lines(kin / "val.csv", ["youtube_id,label"])
    told = "val.csv: expected the columns label, youtube_id, time_start, time_end; missing: time_start, time_end"
    assert told in problems_of(lambda: kinetics_stream(kin))


def test_a_clip_in_both_lists_is_an_error_or_left_out_of_the_second(kin: Path) -> None:
    add_lines(kin / "val.csv", (kin / "train.csv").read_text().splitlines()[1])
    told = "val.csv: 1 clips are listed before: -train_0000001_000020_000030"
    assert told in problems_of(lambda: kinetics_stream(kin))
    stream = kinetics_stream(kin, on_copies="skip")
    assert f"{told}; left out" in stream.notes
    assert check_stream(stream) == []


def test_the_real_clips_become_a_stream() -> None:
    found = kinetics(Kinetics200CilConfig(root=str(shared("clips_other") / "kinetics")))
    assert {record.label for record in found.records} == {"arm_wrestling", "flipping_pancake", "using_segway"}
    assert len(found.records) == 4


CLASSES = ("arm wave", "bow", "clap", "dive")


def test_real_clips_of_class_folders_become_a_stream(tmp_path: Path) -> None:
    root = shared("clips_mini")
    stream = clip_stream(
        root, workspace=Workspace(tmp_path), tasks=5, shots=None, test_per_class=None, on_copies="skip"
    )
    assert len(stream.labels) == 10
    assert "10 of 11 classes are used" in stream.notes
    for example in (*stream.tasks[0].train, *stream.tasks[-1].test):
        clip = example.media()
        assert isinstance(clip, Clip)
        # 16 frames at 24 to 30 a second are 0.53 to 0.67 s: two frames
        assert [frame.size for frame in clip.frames] == [(128, 96)] * 2
    whole = clip_stream(root, tasks=1, classes_per_task=11, shots=None, test_per_class=None)
    assert (len(whole.tasks[0].train), len(whole.tasks[0].test)) == (65, 35)
    # RandomState(0).permutation(2) = [1, 0] over cartwheel, wave; there are no splits
    assert clip_stream(shared("clips_other") / "hmdb51", tasks=1, classes_per_task=1, shots=1).labels == ("wave",)


clip_stream = partial(built, "clips_cil", tasks=2, classes_per_task=2, shots=2, test_per_class=1)


@pytest.fixture(scope="module")
def clips_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of four clips."""
    root = tmp_path_factory.mktemp("clips")
    for frames, (folder, i) in enumerate(product(CLASSES, range(4)), start=4):
        write_clip(root / folder / f"{i}.mp4", frames)
    return root


def test_splits_are_kept_and_what_lies_beside_them_is_noted(root: Path) -> None:
    for name, number in product(CLASSES, range(4)):
        split = root / ("train" if number < 2 else "test")
        (split / name).mkdir(parents=True, exist_ok=True)
        (root / name / f"{number}.mp4").rename(split / name / f"{number}.mp4")
    for name in CLASSES[1:]:
        (root / name).rmdir()
    (root / "train" / "bow" / "notes.txt").write_text("x")
    stream = clip_stream(root)
    assert all(example.key.startswith("train/") for task in stream.tasks for example in task.train)
    assert all(example.key.startswith("test/") for task in stream.tasks for example in task.test)
    assert f"{CLASSES[0]} beside train and test left out" in stream.notes
    assert any(note.startswith("train/bow: 1 entries that are no items") for note in stream.notes)


@pytest.mark.parametrize("feed", ["images", "video"])
def test_a_clip_goes_in_as_its_setting_or_else_the_workspace_says(clips_tree: Path, feed: Feed) -> None:
    for given in ({"feed": feed}, {"workspace": Workspace(feed=feed)}):
        stream = clip_stream(clips_tree, fps=10, max_frames=3, **given)
        example = stream.tasks[0].train[0]
        clip, asked = example.media(), request(example, ["bow"])
        assert isinstance(clip, Clip) and (stream.feed, clip.feed) == (feed, feed)
        types = [part["type"] for part in asked.messages[0]["content"]]
        assert types == (["image"] * 3 if feed == "images" else ["video"]) + ["text"]
        assert len(asked.media) == len(types) - 1
    assert clip_stream(clips_tree, workspace=Workspace(feed=feed), feed="images").feed == "images"


def test_class_folders_become_a_stream_whose_decoded_clips_are_kept(clips_tree: Path, tmp_path: Path) -> None:
    first = clip_stream(clips_tree, workspace=Workspace(tmp_path))
    assert sorted(first.labels) == sorted(CLASSES)
    assert sizes(first) == [(4, 2), (4, 2)]
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()}
    assert len(kept) == 12  # 4 classes x (2 shots + 1 test)
    # a second build decodes nothing
    second = clip_stream(clips_tree, workspace=Workspace(tmp_path))
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()} == kept
    clips = [[e.media() for task in stream.tasks for e in task.train] for stream in (first, second)]
    assert clips[0] == clips[1]
    clip_stream(clips_tree, workspace=Workspace(tmp_path / "none"), cache_mb=0)
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["index.sqlite"]


def test_unreadable_clips_and_a_class_without_any_are_all_named_at_once(root: Path) -> None:
    (root / "empty").mkdir()
    (root / "bow" / "0.mp4").write_bytes(b"")
    (root / "bow" / "1.mp4").write_text("no clip")
    write_sound(root / "clap" / "2.mp4")
    torn = root / "dive" / "3.mp4"
    torn.write_bytes(torn.read_bytes()[:-200])
    assert problems_of(lambda: clip_stream(root, shots=None, test_per_class=1)) == (
        "no items of 1 of the 5 classes: empty",
        "4 items cannot be decoded; repair or remove them, or set on_damaged=skip",
        "bow/0.mp4 (an empty file)",
        "bow/1.mp4 (no readable video: Invalid data found when processing input)",
        "clap/2.mp4 (no video in the file)",
        "dive/3.mp4 (no readable video: Invalid data found when processing input)",
    )


def test_a_tree_without_clips_and_half_a_split_say_what_was_expected(tmp_path: Path) -> None:
    write_lines(tmp_path / "bow" / "notes.txt", ["no clip"])
    (problem,) = problems_of(lambda: clip_stream(tmp_path))
    assert "expected <class>/<clip> with a clip's name ending in .3gp, .avi, " in problem
    assert problem.endswith("found bow, and no clip in there")
    write_clip(tmp_path / "train" / "bow" / "0.mp4", 4)
    told = f"{tmp_path}: found train/ alone; expected train and test clips, or neither"
    assert problems_of(lambda: clip_stream(tmp_path)) == (told,)
