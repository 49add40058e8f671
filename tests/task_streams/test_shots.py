import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from task_streams import build_stream
from task_streams.datasets.imagenet_ra import ImageNetAConfig
from task_streams.datasets.tinyimagenet import tinyimagenet
from task_streams.errors import UserError
from task_streams.scenarios.fingerprint import check_stream
from task_streams.scenarios.shots import listed_records
from task_streams.sources.records import FileSource, Record, Split
from tests.shared_data import shared
from tests.task_streams.image_trees import problems_of, write_images, write_lines

NOWHERE = FileSource(Path("nowhere"))
FORMS = '{"key": "…"} or {"class_name": "…", "relative_path": "…", "file_name": "…"}'


def record(key: str, label: str, split: Split = "train", domain: str = "") -> Record:
    return Record(key, label, NOWHERE, split, domain)


RECORDS = (
    record("train/ant/0.jpg", "ant"),
    record("train/ant/1.jpg", "ant"),
    record("train/ice bear/0.jpg", "Ice_bear"),
    record("test/ant/0.jpg", "ant", "test"),
    record("test/ant/2.jpg", "ant", "test"),
)


def write_rows(path: Path, rows: Sequence[Any]) -> str:
    write_lines(path, [row if isinstance(row, str) else json.dumps(row) for row in rows])
    return str(path)


def by_name(label: str, file: str, relative: str | None = None) -> dict[str, str]:
    return {"class_name": label, "relative_path": relative or f"{label}/{file}", "file_name": file}


def keys(records: Sequence[Record], split: Split) -> list[str]:
    return [item.key for item in records if item.split == split]


def problems(path: Path, rows: Sequence[Any], records: Sequence[Record] = RECORDS) -> tuple[str, ...]:
    """Problems of a list, without the name of its file."""
    name = write_rows(path / "list.jsonl", rows)
    return tuple(problem.removeprefix(f"{name}, ") for problem in problems_of(lambda: listed_records(name, records)))


def test_rows_of_either_form_name_training_items_in_their_order(tmp_path: Path) -> None:
    name = write_rows(tmp_path / "list.jsonl", [by_name("ice-bear", "0.jpg"), "", {"key": "train/ant/1.jpg"}])
    found = listed_records(name, RECORDS)
    assert keys(found, "train") == ["train/ice bear/0.jpg", "train/ant/1.jpg"]
    assert keys(found, "test") == ["test/ant/0.jpg", "test/ant/2.jpg"]


def test_a_class_may_be_spelt_with_or_without_separators(tmp_path: Path) -> None:
    name = write_rows(tmp_path / "list.jsonl", [by_name("IceBear", "0.jpg")])
    assert keys(listed_records(name, RECORDS), "train") == ["train/ice bear/0.jpg"]


def test_without_splits_everything_that_is_not_listed_is_tested_on(tmp_path: Path) -> None:
    records = [record(f"ant/{i}.jpg", "ant", "") for i in range(4)]
    found = listed_records(write_rows(tmp_path / "list.jsonl", [by_name("ant", "2.jpg")]), records)
    assert keys(found, "train") == ["ant/2.jpg"]
    assert keys(found, "test") == ["ant/0.jpg", "ant/1.jpg", "ant/3.jpg"]
    assert len(found) == 4


def test_every_row_that_does_not_resolve_is_reported_at_once(tmp_path: Path) -> None:
    rows = [
        "{not json",
        ["ant", "0.jpg"],
        {"klass": "ant", "file_name": "0.jpg"},
        {"class_name": "ant"},
        {"key": "train/ant/0.jpg", "class_name": "ant"},
        {"class_name": "ant", "file_name": 0},
        by_name("ant", "0.jpg", "ant/1.jpg"),
        by_name("ant", "7.jpg"),
        by_name("ants", "0.jpg"),
        {"key": "train/ant/9.jpg"},
        {"key": "test/ant/2.jpg"},
        by_name("ant", "2.jpg"),
        {"key": "train/ant/1.jpg"},
        by_name("ant", "1.jpg"),
    ]
    assert problems(tmp_path, rows) == (
        f"row 1: expected a row {FORMS}; found '{{not json'",
        f'row 2: expected a row {FORMS}; found \'["ant", "0.jpg"]\'',
        "row 3: unknown field 'klass'. Did you mean 'class_name'? Known: class_name, file_name, key, relative_path.",
        f"row 4: expected a row {FORMS}; found the fields class_name",
        f"row 5: expected a row {FORMS}; found the fields class_name, key",
        f'row 6: expected a row {FORMS}; found \'{{"class_name": "ant", "file_name": 0}}\'',
        "row 7: file_name '0.jpg' is not the file of relative_path 'ant/1.jpg'",
        "row 8: no item '7.jpg' of class 'ant'; nearest: 'train/ant/1.jpg'",
        "row 9: no class 'ants' among the 2 of the source; nearest: 'ant'",
        "row 10: no item 'train/ant/9.jpg'; nearest: 'train/ant/1.jpg'",
        "row 11: test/ant/2.jpg is a test item; a list names training items only",
        "row 12: test/ant/2.jpg is a test item; a list names training items only",
        "row 14: train/ant/1.jpg is listed already in row 13",
    )


def test_a_row_that_several_items_match_needs_its_path_to_tell_which(tmp_path: Path) -> None:
    records = [record("Art/Bed/1.jpg", "Bed", "", "Art"), record("Product/Bed/1.jpg", "Bed", "", "Product")]
    assert problems(tmp_path, [by_name("Bed", "1.jpg")], records) == (
        "row 1: '1.jpg' of class 'Bed' names several items: Art/Bed/1.jpg, Product/Bed/1.jpg",
    )
    name = write_rows(tmp_path / "list.jsonl", [by_name("Bed", "1.jpg", "Product/Bed/1.jpg")])
    assert keys(listed_records(name, records), "train") == ["Product/Bed/1.jpg"]


def test_a_missing_an_empty_and_a_binary_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl: expected a readable text file; No such file"):
        listed_records(str(tmp_path / "none.jsonl"), RECORDS)
    with pytest.raises(UserError, match="found an empty list"):
        listed_records(write_rows(tmp_path / "list.jsonl", [""]), RECORDS)
    (tmp_path / "list.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="expected UTF-8 text"):
        listed_records(str(tmp_path / "list.jsonl"), RECORDS)


def test_the_whole_tinyimagenet_list_of_rapo_resolves_item_by_item() -> None:
    path = shared("rapo_lists") / "image_cls_cil/fewshot_lists/tinyimagenet_train_5shots.jsonl"
    table = pq.read_table(shared("tinyimagenet") / "train_5shots.parquet", columns=["label", "wnid", "file_name"])
    records = [
        record(f"train/{row['wnid']}/images/{row['file_name']}", row["label"].replace(" ", "_"))
        for row in table.to_pylist()
    ]
    found = listed_records(str(path), records)
    assert len(found) == 1000
    assert {item.key for item in found} == {item.key for item in records}
    assert set(Counter(item.label for item in found).values()) == {5}


def test_the_tinyimagenet_list_resolves_in_part_against_the_original_tree(tmp_path: Path) -> None:
    source = tinyimagenet(shared("tinyimagenet") / "tiny-imagenet-200")
    path = shared("rapo_lists") / "image_cls_cil/fewshot_lists/tinyimagenet_train_5shots.jsonl"
    labels = {item.label for item in source.records}
    rows = [row for row in path.read_text().splitlines() if json.loads(row)["class_name"] in labels]
    assert len(rows) == 100  # 20 classes of 5
    found = listed_records(write_rows(tmp_path / "list.jsonl", rows), source.records)
    assert Counter(item.split for item in found) == {"train": 100, "test": 60}
    missing = problems_of(lambda: listed_records(str(path), source.records))
    assert len(missing) == 900  # rows of the 180 classes that the sample lacks
    assert all("no class" in problem and "among the 20 of the source" in problem for problem in missing)


def test_the_whole_ucf101_list_of_rapo_resolves_item_by_item() -> None:
    path = shared("rapo_lists") / "video_cls_cil/fewshot_lists/ucf101_split01_train_5shots.jsonl"
    lists = shared("ucf101_mini") / "ucfTrainTestlist"
    train = [line.split()[0] for line in (lists / "trainlist01.txt").read_text().splitlines()]
    test = (lists / "testlist01.txt").read_text().split()
    records = [record(key, key.split("/")[0]) for key in train] + [record(k, k.split("/")[0], "test") for k in test]
    found = listed_records(str(path), records)
    assert Counter(item.split for item in found) == {"train": 505, "test": len(test)}
    assert set(Counter(item.label for item in found if item.split == "train").values()) == {5}  # 101 classes


@pytest.mark.parametrize("split", ["train", ""], ids=["release", "official archive"])
def test_the_first_rows_of_the_imagenet_a_list_build_a_stream(tmp_path: Path, split: str) -> None:
    lists = shared("rapo_lists") / "image_cls_cil/fewshot_lists_first_rows"
    path = lists / "imagenet_a_train_5shots.first20.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_images(tmp_path, [f"{split}/{row['relative_path']}".lstrip("/") for row in rows])
    other = "test" if split else ""
    classes = sorted({row["class_name"] for row in rows})
    write_images(tmp_path, [f"{other}/{name}/other_{i}.jpg".lstrip("/") for name in classes for i in range(2)])
    config = ImageNetAConfig(root=str(tmp_path), tasks=len(classes), classes_per_task=1, shots_list=str(path))
    stream = build_stream("imagenet_a_cil", config, 1993)
    assert sorted(e.key.rpartition("/")[2] for task in stream.tasks for e in task.train) == sorted(
        row["file_name"] for row in rows
    )
    assert [len(task.test) for task in stream.tasks] == [2] * len(classes)
    assert check_stream(stream) == []
