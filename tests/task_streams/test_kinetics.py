"""Kinetics with and without its lists, generated and real."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from task_streams.datasets.kinetics import Kinetics200CilConfig, kinetics
from task_streams.scenarios.fingerprint import check_stream
from tests.shared_data import shared
from tests.task_streams.clips import write_clip
from tests.task_streams.image_trees import add_lines, problems_of, write_lines
from tests.task_streams.streams import built as built_stream

CLASSES = ("arm wrestling", "petting animal (not cat)", "using segway")
HEAD = "label,youtube_id,time_start,time_end,split,is_cc"


built = partial(built_stream, "kinetics200_cil", tasks=3, classes_per_task=1, shots=2, test_per_class=1)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes with 3 training and 2 validation clips each, in class folders below the splits, with the lists."""
    root = tmp_path_factory.mktemp("kinetics")
    number = 0
    for split, count in (("train", 3), ("val", 2)):
        rows = []
        for label in CLASSES:
            for i in range(count):
                number += 1
                name = f"-{split}_{number:07d}_{20 + i:06d}_{30 + i:06d}.mp4"
                write_clip(root / split / label.replace(" ", "_") / name, 4 + number)
                rows.append(f"{label},-{split}_{number:07d},{20 + i},{30 + i},{split},0")
        write_lines(root / f"{split}.csv", [HEAD, *rows])
    return root


@pytest.fixture
def root(archive: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(archive, tmp_path / "root"))


@pytest.mark.parametrize(("flat", "lists"), [(True, ""), (False, "annotations")])
def test_clips_are_found_by_the_official_lists_wherever_they_lie(root: Path, flat: bool, lists: str) -> None:
    if flat:
        for clip in list(root.rglob("*.mp4")):
            clip.rename(clip.parents[1] / clip.name)
    (root / lists).mkdir(exist_ok=True)
    for name in ("train.csv", "val.csv"):
        (root / name).rename(root / lists / name)
    stream = built(root)
    assert sorted(stream.labels) == sorted(CLASSES)
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(2, 1)] * 3
    assert check_stream(stream) == []
    assert all(e.key.startswith("val/") for task in stream.tasks for e in task.test)


def test_without_lists_class_folders_count_and_validation_is_for_testing(root: Path) -> None:
    (root / "val.csv").unlink()
    (problem,) = problems_of(lambda: built(root))
    assert problem.endswith("found train.csv alone; expected train.csv and val.csv")
    (root / "train.csv").unlink()
    (root / "test").mkdir()
    stream = built(root)
    assert sorted(stream.labels) == sorted(label.replace(" ", "_") for label in CLASSES)
    assert all(e.key.startswith("val/") for task in stream.tasks for e in task.test)
    assert "test beside train and val left out" in stream.notes


def test_vanished_videos_are_counted_and_a_class_without_any_is_an_error(root: Path) -> None:
    add_lines(root / "train.csv", "arm wrestling,vanished000,1,11,train,0", "using segway,vanished001,1,11,train,0")
    assert "train.csv: 2 of 11 listed clips are not on disk" in built(root).notes
    add_lines(root / "val.csv", "yoga,vanished002,1,11,val,0")
    told = "val.csv: none of the listed clips of 1 classes are on disk: yoga"
    assert told in problems_of(lambda: built(root))


def test_a_subsets_list_of_videos_chooses_among_the_clips(root: Path) -> None:
    wanted = [row.split(",")[1] for row in (root / "train.csv").read_text().splitlines()[1:] if "segway" not in row]
    write_lines(root / "train_ytid_list.txt", wanted[1:], "\r\n")
    found = kinetics(Kinetics200CilConfig(root=str(root)))
    train = [record for record in found.records if record.split == "train"]
    assert len(train) == 5  # 3 + 3 clips of two classes, without the first
    assert {record.label for record in train} == set(CLASSES[:2])


def test_damaged_rows_and_a_list_without_its_columns_are_named(root: Path) -> None:
    add_lines(root / "train.csv", "arm wrestling,abc,ten,20,train,0", "arm wrestling", 'yoga,"abc,10,20')
    add_lines(root / "val.csv", ",abc,10,20,val,0")
    expected = "expected label,youtube_id,time_start,time_end; found"
    assert problems_of(lambda: built(root)) == (
        f"train.csv, line 11: {expected} 'arm wrestling,abc,ten,20,train,0'",
        f"train.csv, line 12: {expected} 'arm wrestling'",
        f"train.csv, line 13: {expected} 'yoga,abc,10,20'",
        f"val.csv, line 8: {expected} ',abc,10,20,val,0'",
    )
    write_lines(root / "val.csv", ["youtube_id,label"])
    told = "val.csv: expected the columns label, youtube_id, time_start, time_end; missing: time_start, time_end"
    assert told in problems_of(lambda: built(root))


def test_a_clip_in_both_lists_is_an_error_or_left_out_of_the_second(root: Path) -> None:
    add_lines(root / "val.csv", (root / "train.csv").read_text().splitlines()[1])
    told = "val.csv: 1 clips are listed before: -train_0000001_000020_000030"
    assert told in problems_of(lambda: built(root))
    stream = built(root, on_copies="skip")
    assert f"{told}; left out" in stream.notes
    assert check_stream(stream) == []


def test_the_real_clips_become_a_stream() -> None:
    found = kinetics(Kinetics200CilConfig(root=str(shared("clips_other") / "kinetics")))
    assert {record.label for record in found.records} == {"arm_wrestling", "flipping_pancake", "using_segway"}
    assert len(found.records) == 4
