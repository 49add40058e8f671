"""Kinetics with and without its lists, generated and real."""

from functools import partial
from pathlib import Path

import pytest

from task_streams.datasets.kinetics import find_clips
from task_streams.errors import UserError
from task_streams.scenarios.fingerprint import check_stream
from tests.shared_data import shared
from tests.task_streams.clips import write_clip
from tests.task_streams.streams import built as built_stream

CLASSES = ("arm wrestling", "petting animal (not cat)", "using segway")
HEAD = "label,youtube_id,time_start,time_end,split,is_cc"


built = partial(built_stream, "kinetics200_cil", tasks=3, classes_per_task=1, shots=2, test_per_class=1)


def write_kinetics(root: Path, folders: bool = False, lists: str = "") -> Path:
    """Three classes with 3 training and 2 validation clips each; flat below the splits, or in class folders."""
    number = 0
    for split, count in (("train", 3), ("val", 2)):
        rows = []
        for label in CLASSES:
            for i in range(count):
                number += 1
                name = f"-{split}_{number:07d}_{20 + i:06d}_{30 + i:06d}.mp4"
                folder = root / split / (label.replace(" ", "_") if folders else "")
                write_clip(folder / name, 4 + number)
                rows.append(f"{label},-{split}_{number:07d},{20 + i},{30 + i},{split},0")
        (root / lists).mkdir(exist_ok=True)
        (root / lists / f"{split}.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    return root


def rewrite(root: Path, name: str, *more: str) -> None:
    path = root / name
    path.write_text(path.read_text() + "\n".join(more) + "\n")


@pytest.mark.parametrize(("folders", "lists"), [(False, ""), (True, "annotations")])
def test_clips_are_found_by_the_official_lists_wherever_they_lie(tmp_path: Path, folders: bool, lists: str) -> None:
    stream = built(write_kinetics(tmp_path, folders, lists))
    assert sorted(stream.labels) == sorted(CLASSES)
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(2, 1)] * 3
    assert check_stream(stream) == []
    assert all(e.key.startswith("val/") for task in stream.tasks for e in task.test)


def test_without_lists_class_folders_count_and_validation_is_for_testing(tmp_path: Path) -> None:
    write_kinetics(tmp_path, folders=True)
    for name in ("train.csv", "val.csv"):
        (tmp_path / name).unlink()
    (tmp_path / "test").mkdir()
    stream = built(tmp_path)
    assert sorted(stream.labels) == sorted(label.replace(" ", "_") for label in CLASSES)
    assert all(e.key.startswith("val/") for task in stream.tasks for e in task.test)
    assert "test beside train and val left out" in stream.notes


def test_vanished_videos_are_counted_and_a_class_without_any_is_an_error(tmp_path: Path) -> None:
    write_kinetics(tmp_path)
    rewrite(tmp_path, "train.csv", "arm wrestling,vanished000,1,11,train,0", "using segway,vanished001,1,11,train,0")
    assert "train.csv: 2 of 11 listed clips are not on disk" in built(tmp_path).notes
    rewrite(tmp_path, "val.csv", "yoga,vanished002,1,11,val,0")
    with pytest.raises(UserError, match=r"val\.csv: none of the listed clips of 1 classes are on disk: yoga"):
        built(tmp_path)


def test_a_subsets_list_of_videos_chooses_among_the_clips(tmp_path: Path) -> None:
    write_kinetics(tmp_path)
    wanted = [row.split(",")[1] for row in (tmp_path / "train.csv").read_text().splitlines()[1:] if "segway" not in row]
    (tmp_path / "train_ytid_list.txt").write_text("\r\n".join(wanted[1:]))
    found = find_clips(tmp_path.resolve())
    train = [record for record in found.records if record.split == "train"]
    assert len(train) == 5  # 3 + 3 clips of two classes, without the first
    assert {record.label for record in train} == set(CLASSES[:2])


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        (
            "train.csv",
            "arm wrestling,abc,ten,20,train,0",
            "line 11: expected .*; found 'arm wrestling,abc,ten,20",
        ),
        ("train.csv", "arm wrestling", "line 11: expected label,youtube_id,time_start,time_end; found 'arm wrestling'"),
        ("train.csv", 'yoga,"abc,10,20', "line 11: expected .*; found 'yoga,abc,10,20'"),
        ("val.csv", ",abc,10,20,val,0", "val.csv, line 8: expected .*; found ',abc,10,20,val,0'"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, name: str, row: str, said: str) -> None:
    rewrite(write_kinetics(tmp_path), name, row)
    with pytest.raises(UserError, match=said):
        built(tmp_path)


def test_a_list_without_its_columns_is_named(tmp_path: Path) -> None:
    write_kinetics(tmp_path)
    (tmp_path / "val.csv").write_text("youtube_id,label\n")
    with pytest.raises(UserError, match=r"val\.csv: expected the columns .*; missing: time_start, time_end"):
        built(tmp_path)


def test_a_clip_in_both_lists_is_an_error_or_left_out_of_the_second(tmp_path: Path) -> None:
    write_kinetics(tmp_path)
    row = (tmp_path / "train.csv").read_text().splitlines()[1]
    rewrite(tmp_path, "val.csv", row)
    with pytest.raises(UserError, match=r"val\.csv: 1 clips are listed before: -train_0000001_000020_000030"):
        built(tmp_path)
    stream = built(tmp_path, on_copies="skip")
    assert any(note.startswith("val.csv: 1 clips are listed before") for note in stream.notes)
    assert check_stream(stream) == []


def test_one_list_without_the_other_is_named(tmp_path: Path) -> None:
    write_kinetics(tmp_path)
    (tmp_path / "val.csv").unlink()
    with pytest.raises(UserError, match=r"found train\.csv alone; expected train\.csv and val\.csv"):
        built(tmp_path)


def test_the_real_clips_become_a_stream() -> None:
    root = shared("clips_other") / "kinetics"
    found = find_clips(root.resolve())
    assert {record.label for record in found.records} == {"arm_wrestling", "flipping_pancake", "using_segway"}
    assert len(found.records) == 4
