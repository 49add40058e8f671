import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from task_streams import build_stream
from task_streams.datasets.imagenet_ra import ImageNetAConfig
from task_streams.scenarios.fingerprint import check_stream
from task_streams.scenarios.shots import listed_records
from task_streams.sources.records import FileSource, Record, Split
from tests.shared_data import shared
from tests.task_streams.streams import problems_of, write_images, write_lines

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


def test_every_row_that_does_not_resolve_is_reported_at_once(tmp_path: Path) -> None:
    form, known = f"expected a row {FORMS}; found", "Known: class_name, file_name, key, relative_path."
    tested = "test/ant/2.jpg is a test item; a list names training items only"
    cases: list[tuple[Any, str | None]] = [
        ("{not json", f"{form} '{{not json'"),
        (["ant", "0.jpg"], f"""{form} '["ant", "0.jpg"]'"""),
        ({"klass": "ant", "file_name": "0.jpg"}, f"unknown field 'klass'. Did you mean 'class_name'? {known}"),
        ({"class_name": "ant"}, f"{form} the fields class_name"),
        ({"key": "train/ant/0.jpg", "class_name": "ant"}, f"{form} the fields class_name, key"),
        ({"class_name": "ant", "file_name": 0}, f"""{form} '{{"class_name": "ant", "file_name": 0}}'"""),
        (by_name("ant", "0.jpg", "ant/1.jpg"), "file_name '0.jpg' is not the file of relative_path 'ant/1.jpg'"),
        (by_name("ant", "7.jpg"), "no item '7.jpg' of class 'ant'; nearest: 'train/ant/1.jpg'"),
        (by_name("ants", "0.jpg"), "no class 'ants' among the 2 of the source; nearest: 'ant'"),
        ({"key": "train/ant/9.jpg"}, "no item 'train/ant/9.jpg'; nearest: 'train/ant/1.jpg'"),
        ({"key": "test/ant/2.jpg"}, tested),
        (by_name("ant", "2.jpg"), tested),
        ({"key": "train/ant/1.jpg"}, None),
        (by_name("ant", "1.jpg"), "train/ant/1.jpg is listed already in row 13"),
    ]
    told = tuple(f"row {number}: {said}" for number, (_, said) in enumerate(cases, start=1) if said)
    assert problems(tmp_path, [row for row, _ in cases]) == told


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


def listed(folder: Path, rows: Sequence[Any], records: Sequence[Record] = RECORDS) -> tuple[Record, ...]:
    return listed_records(write_rows(folder / "list.jsonl", rows), records)


def test_rows_of_either_form_name_training_items_in_their_order_and_the_rest_is_tested_on(tmp_path: Path) -> None:
    found = listed(tmp_path, [by_name("ice-bear", "0.jpg"), "", {"key": "train/ant/1.jpg"}])
    assert keys(found, "train") == ["train/ice bear/0.jpg", "train/ant/1.jpg"]
    assert keys(found, "test") == ["test/ant/0.jpg", "test/ant/2.jpg"]
    found = listed(tmp_path, [by_name("IceBear", "0.jpg")])  # a class may be spelt without separators
    assert keys(found, "train") == ["train/ice bear/0.jpg"]
    found = listed(tmp_path, [by_name("ant", "2.jpg")], [record(f"ant/{i}.jpg", "ant", "") for i in range(4)])
    assert keys(found, "train") == ["ant/2.jpg"]
    assert keys(found, "test") == ["ant/0.jpg", "ant/1.jpg", "ant/3.jpg"]
    assert len(found) == 4
    records = [record("Art/Bed/1.jpg", "Bed", "", "Art"), record("Product/Bed/1.jpg", "Bed", "", "Product")]
    assert problems(tmp_path, [by_name("Bed", "1.jpg")], records) == (
        "row 1: '1.jpg' of class 'Bed' names several items: Art/Bed/1.jpg, Product/Bed/1.jpg",
    )
    found = listed(tmp_path, [by_name("Bed", "1.jpg", "Product/Bed/1.jpg")], records)
    assert keys(found, "train") == ["Product/Bed/1.jpg"]


def test_a_missing_an_empty_and_a_binary_list_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    for data, said in (
        (None, "expected a readable text file; No such file"),
        (b"\n", "found an empty list"),
        (b"\xff\xfe\x00", "expected UTF-8 text"),
    ):
        if data is not None:
            path.write_bytes(data)
        assert said in problems_of(lambda: listed_records(str(path), RECORDS))[0]


def test_the_whole_tinyimagenet_list_of_rapo_resolves_item_by_item() -> None:
    path = shared("rapo_lists") / "image_cls_cil/fewshot_lists/tinyimagenet_train_5shots.jsonl"
    table = pq.read_table(shared("tinyimagenet") / "train_5shots.parquet", columns=["label", "wnid", "file_name"])
    rows = table.to_pylist()
    items = {f"train/{row['wnid']}/images/{row['file_name']}": row["label"].replace(" ", "_") for row in rows}
    found = listed_records(str(path), [record(key, label) for key, label in items.items()])
    assert len(found) == 1000
    assert {item.key for item in found} == items.keys()
    assert set(Counter(item.label for item in found).values()) == {5}
