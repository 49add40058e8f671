import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from task_streams import Workspace, build_stream
from task_streams.datasets.tables import TableCilConfig, TableDilConfig
from task_streams.scenarios.fingerprint import check_stream, fingerprints
from task_streams.sources.records import Damaged
from task_streams.sources.tables import Columns, RowSource, parquet_tables, stored
from task_streams.types import Example, TaskStream
from tests.shared_data import shared
from tests.task_streams.streams import png, problems_of, sizes

CLASSES = ("ant", "bee", "cat", "dog")


def images(count: int, first: int = 0) -> list[bytes]:
    return [png((i % 256, i // 256, 1)) for i in range(first, first + count)]


def table(per_class: int = 6, first: int = 0, **columns: Any) -> pa.Table:
    """``per_class`` rows of each class, with images of distinct colours."""
    labels = [label for label in CLASSES for _ in range(per_class)]
    return pa.table({"image": images(len(labels), first), "label": labels} | columns)


def write(path: Path, written: pa.Table | None = None, **options: Any) -> str:
    pq.write_table(table() if written is None else written, path, **options)
    return str(path)


def cil(cache: Path | None = None, **settings: Any) -> TaskStream:
    config = TableCilConfig(**{"tasks": 2, "classes_per_task": 2, "shots": 3, "test_per_class": 2} | settings)
    return build_stream("table_cil", config, 0, Workspace(cache))


def dil(cache: Path | None = None, **settings: Any) -> TaskStream:
    return build_stream("table_dil", TableDilConfig(**settings), 0, Workspace(cache))


def examples(stream: TaskStream) -> list[Example]:
    return [example for task in stream.tasks for example in (*task.train, *task.test)]


def problems(**settings: Any) -> tuple[str, ...]:
    return problems_of(lambda: cil(**settings))


def test_a_parquet_file_becomes_a_stream_with_a_hold_out_and_a_key_column_gives_the_keys(tmp_path: Path) -> None:
    stream = cil(train=write(tmp_path / "x.parquet"))
    assert sorted(stream.labels) == list(CLASSES)
    assert sizes(stream) == [(6, 4), (6, 4)]
    for example in examples(stream):
        image = example.media()
        assert isinstance(image, Image.Image)
        row = table().to_pylist()[image.getpixel((0, 0))[0]]  # type: ignore[index]
        assert (row["label"], hashlib.sha256(row["image"]).hexdigest()) == (example.label, example.content)
        assert example.key == f"{example.label}/{example.content[:16]}"
    path = write(tmp_path / "x.parquet", table(name=[f"img{i}" for i in range(24)]))
    named = examples(cil(train=path, key_column="name"))
    assert {example.key for example in named} <= {f"img{i}" for i in range(24)}
    numbered = write(tmp_path / "n.parquet", table(name=list(range(24))))
    held = write(tmp_path / "t.parquet", table(name=list(range(24)), first=100))
    keys = {example.key for example in examples(cil(train=numbered, test=held, key_column="name"))}
    assert {key.split("/")[0] for key in keys} == {"train", "test"}


def test_keys_stay_when_rows_are_reordered_or_spread_over_files_and_images_may_be_structs(tmp_path: Path) -> None:
    whole = table()
    one = cil(train=write(tmp_path / "one.parquet", whole))
    backwards = whole.take(list(reversed(range(len(whole)))))
    write(tmp_path / "part-0.parquet", backwards.slice(0, 10))
    write(tmp_path / "part-1.parquet", backwards.slice(10))
    assert fingerprints(cil(train=str(tmp_path / "part-*.parquet"))) == fingerprints(one)
    parts = [str(tmp_path / f"part-{i}.parquet") for i in (1, 0)]
    assert fingerprints(cil(train=parts)) == fingerprints(one)
    structs = pa.array([{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(whole["image"].to_pylist())])
    path = write(tmp_path / "x.parquet", whole.set_column(0, "image", structs))
    assert fingerprints(cil(train=path)) == fingerprints(one)


def test_class_names_and_images_of_the_datasets_library_are_known_by_themselves(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    plain = table()
    rows_: dict[str, Any] = {
        "image": [{"bytes": data, "path": None} for data in plain["image"].to_pylist()],
        "label": [CLASSES.index(label) for label in plain["label"].to_pylist()],
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    datasets.Dataset.from_dict(rows_, features=features).to_parquet(str(tmp_path / "x.parquet"))
    expected = fingerprints(cil(train=write(tmp_path / "plain.parquet")))
    assert fingerprints(cil(train=str(tmp_path / "x.parquet"))) == expected
    features["domain"] = datasets.ClassLabel(names=["art", "photo"])
    rows_["domain"] = [0, 1] * (len(rows_["label"]) // 2)
    written = datasets.Dataset.from_dict(rows_, features=features).data.table
    numbers = pa.array([0, 1, 2, -1] * (len(rows_["label"]) // 4))  # the library casts, and keeps what is out of range
    path = write(tmp_path / "domains.parquet", written.set_column(2, "domain", numbers))
    (told,) = problems_of(lambda: dil(train=path))
    assert told.startswith(f"{path}: column 'domain' holds 2, -1, 2, -1, 2 and ")
    assert told.endswith("; expected numbers of its 2 domains, from 0")
    folder = tmp_path / "hub"
    folder.mkdir()
    os.rename(tmp_path / "x.parquet", folder / "train.parquet")
    stream = cil(hub=str(folder), test_split=None, cache=tmp_path / "cache")
    assert fingerprints(stream) == expected
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"index.sqlite", "tables"}


def test_an_imagefolder_of_the_datasets_library_is_read(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number in range(12):
            path = tmp_path / "hub" / split / "abc"[number % 3] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (number, len(split), 0)).save(path)
    stream = cil(hub=str(tmp_path / "hub"), tasks=3, classes_per_task=1, cache=tmp_path / "cache")
    found = examples(stream)
    assert {example.label for example in found} == set("abc")
    for example in found:
        red, green, _ = example.media().getpixel((0, 0))  # type: ignore[union-attr,misc]
        assert ("abc"[red % 3], ("test", "train")[green - 4]) == (example.label, example.key.split("/")[0])
    outside = tmp_path / "outside.png"
    (tmp_path / "hub" / "train" / "a" / "0.png").rename(outside)
    (tmp_path / "hub" / "train" / "a" / "0.png").symlink_to(outside)
    (told,) = problems(hub=str(tmp_path / "hub"), cache=tmp_path / "cache")
    assert "0.png: a link that leads out of" in told and told.endswith("refused (set links=anywhere to follow links)")
    assert len(examples(cil(hub=str(tmp_path / "hub"), tasks=3, classes_per_task=1, links="anywhere"))) == len(found)
    outside.unlink()  # the library would pass over what a link leads nowhere to
    (told,) = problems(hub=str(tmp_path / "hub"), cache=tmp_path / "cache")
    assert "1 entries are neither files nor folders" in told and told.endswith("train/a/0.png; remove them")


def test_a_hub_dataset_has_named_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet")
    write(tmp_path / "test.parquet", table(first=100))
    stream = cil(hub=str(tmp_path), cache=tmp_path / "cache")
    assert {example.key.split("/")[0] for example in examples(stream)} == {"train", "test"}
    found = problems(hub=str(tmp_path), test_split="validation", cache=tmp_path / "cache")
    assert len(found) == 1
    assert found[0].startswith(f"hub '{tmp_path}': cannot be opened (") and "validation" in found[0]
    assert problems(hub="./nowhere", cache=tmp_path / "cache") == (
        "hub './nowhere': expected the id of a dataset (owner/name) or a folder; found nothing there",
    )


def test_copies_in_a_table_get_keys_of_their_own_and_are_left_out(tmp_path: Path) -> None:
    whole = table()
    path = write(tmp_path / "x.parquet", pa.concat_tables([whole, whole.slice(0, 1)]))
    stream = cil(train=path, shots=None, test_per_class=1)
    digest = hashlib.sha256(images(1)[0]).hexdigest()[:16]
    # Of the two the one that the seeded order brings first is kept; both names are given.
    (note,) = stream.notes
    assert sorted(note.removeprefix("1 items left out, copies of others: ").split(" = ")) == [
        f"ant/{digest} (ant)",
        f"ant/{digest}~2 (ant)",
    ]
    assert len(examples(stream)) == 24


def test_files_that_are_missing_no_parquet_or_cut_are_refused_by_name_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet")
    found = problems(train=[str(tmp_path / "tran.parquet"), str(tmp_path / "no" / "*.parquet")])
    assert len(found) == 2
    assert "found nothing there. unknown file 'tran.parquet'. Did you mean 'train.parquet'?" in found[0]
    assert found[1].endswith("expected a parquet file, or a pattern that matches some; found nothing there.")
    (folder,) = problems(train=str(tmp_path))
    assert folder.endswith(f"found a folder. Name its files, e.g. {tmp_path}/*.parquet")
    path = write(tmp_path / "x.parquet")
    data = bytearray(Path(path).read_bytes())
    data[4:400] = b"\xff" * 396  # pages, with the footer whole
    for damaged in (b"", b"<html>", bytes(data[:-30]), bytes(data)):
        Path(path).write_bytes(damaged)
        (problem,) = problems(train=path, cache=tmp_path / "cache")
        assert problem.startswith(f"{path}: cannot be read (")
    assert list((tmp_path / "cache").rglob("*.arrow")) == []


def test_empty_and_damaged_image_cells_are_named_or_skipped(tmp_path: Path) -> None:
    cells: list[bytes | None] = list(images(24))
    cells[0], cells[7] = None, b"<html>404</html>"
    written = table(name=[f"img{i}" for i in range(24)]).set_column(0, "image", pa.array(cells))
    path = write(tmp_path / "x.parquet", written)
    assert problems(train=path, key_column="name", shots=None, test_per_class=1) == (
        "2 items cannot be decoded; repair or remove them, or set on_damaged=skip",
        "img0 (no image bytes in its cell)",
        "img7 (no BMP, GIF, JPEG, PNG or WEBP image in its 16 bytes)",
    )
    digest = hashlib.sha256(b"<html>404</html>").hexdigest()[:16]
    assert problems(train=path, shots=None, test_per_class=1)[1:] == (
        "ant/row 1 of x.parquet (no image bytes in its cell)",
        f"bee/{digest} (no BMP, GIF, JPEG, PNG or WEBP image in its 16 bytes)",
    )
    stream = cil(train=path, key_column="name", shots=None, test_per_class=1, on_damaged="skip")
    assert len(examples(stream)) == 22


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "neither train nor hub given; expected train (parquet) or hub"),
        ({"train": "x", "hub": "y"}, "train and hub given; expected train (parquet) or hub"),
        ({"train": "x", "revision": "main"}, "revision given without hub; expected only with a hub dataset"),
        ({"hub": "x", "test": "y"}, "test given with hub; name the split with test_split instead"),
        (
            {"hub": "x", "class_names": [1]},
            "class_names: got [1], expected a list of texts, a file of them, new names by present ones "
            '(e.g. {"4": four}), or null. true, false, null and numbers are no text (in YAML 1.1 nor yes, no, on and '
            "off): put such names in quotes.",
        ),
    ],
)
def test_a_source_must_be_given_once_and_settings_must_belong_to_it(settings: dict[str, Any], problem: str) -> None:
    assert problems_of(lambda: TableCilConfig(**settings)) == (problem,)


def read_sizes(sources: Sequence[RowSource]) -> list[int]:
    return [len(source.read()) for source in sources]


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process")
def test_rows_are_read_in_worker_processes_too(tmp_path: Path, start: str) -> None:
    path = write(tmp_path / "x.parquet")
    stream = cil(train=path, cache=tmp_path / "cache")
    sources = [example.media.args[0] for example in examples(stream)]  # type: ignore[attr-defined]
    here = read_sizes(sources)  # opened in this process before the other one starts
    with multiprocessing.get_context(start).Pool(1) as pool:
        assert pool.apply(read_sizes, (pickle.loads(pickle.dumps(sources)),)) == here


def test_row_groups_of_any_size_are_stored_row_by_row_and_a_copy_that_vanishes_is_damage(tmp_path: Path) -> None:
    plain = table(50)
    path = write(tmp_path / "x.parquet", plain, row_group_size=77)
    (found,) = parquet_tables("train", [path])
    kept = stored(found, Columns("image", "label"), tmp_path / "cache")
    assert (len(kept.rows), kept.numbered, kept.names) == (200, False, [])
    for (source, *_), expected in zip(kept.rows, plain.to_pylist(), strict=True):
        assert source.read() == expected["image"]
    with pytest.raises(Damaged, match=r"none\.arrow"):
        RowSource(str(tmp_path / "none.arrow"), batch=0, row=0, digest="ab").read()


def test_without_a_cache_nothing_stays_behind(tmp_path: Path) -> None:
    code = (
        "import sys, tempfile; from task_streams.datasets.tables import *; from task_streams import build_stream\n"
        "config = TableCilConfig(train=sys.argv[1], tasks=2, shots=1, test_per_class=1)\n"
        "stream = build_stream('table_cil', config, 0)\n"
        "import os; print(len(os.listdir(tempfile.gettempdir())), stream.tasks[0].train[0].media().size)\n"
    )
    path, scratch = write(tmp_path / "x.parquet"), tmp_path / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    told = subprocess.check_output([sys.executable, "-c", code, path], text=True, env=environment)
    assert told.split(maxsplit=1) == ["1", "(2, 2)\n"]
    assert list(scratch.iterdir()) == []


ALPHABETS = ["Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"]
REAL: dict[str, tuple[int, list[str]]] = {  # classes and domains
    "cifar10": (10, []), "cifar100": (100, []), "fashion_mnist": (10, []), "cub100": (100, []),
    "omniglot": (136, ALPHABETS), "pacs": (7, ["art_painting", "cartoon", "photo", "sketch"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_tables_are_read_and_their_domains_become_tasks(tmp_path: Path, name: str) -> None:
    files = {split: f"{shared(name)}/{split}.parquet" for split in ("train", "test")}
    classes, domains = REAL[name]
    stream = cil(tmp_path, **files, tasks=3)
    assert (sizes(stream), stream.notes) == ([(6, 4)] * 3, (f"6 of {classes} classes are used",))
    assert all(example.media().mode == "RGB" for example in examples(stream))  # type: ignore[union-attr]
    if domains:
        stream = dil(tmp_path, **files, shots=2, test_per_class=1)
        assert (sorted(task.name for task in stream.tasks), check_stream(stream)) == (domains, [])


def test_domains_of_a_column_become_tasks_and_listed_items_of_others_are_counted(tmp_path: Path) -> None:
    domain = ["art" if i % 2 else "photo" for i in range(24)]
    path = write(tmp_path / "x.parquet", table(style=domain))
    stream = dil(train=path, domain_column="style", shots=2, test_per_class=1)
    # RandomState(0).permutation(2) is [1 0]; the sorted names are art, photo.
    assert [task.name for task in stream.tasks] == ["photo", "art"]
    assert all(task.classes == CLASSES for task in stream.tasks)
    assert {example.domain for example in stream.tasks[0].train} == {"photo"}
    assert stream.tasks[0].train[0].key.startswith("photo/ant/")
    assert check_stream(stream) == []
    written = table(domain=["art", "photo", "photo"] * 8, name=[f"img{i}" for i in range(24)])
    listed = tmp_path / "list.jsonl"
    listed.write_text("".join(f'{{"key": "img{i}"}}\n' for i in (0, 1, 2, 6, 12, 18)))  # 1 and 2 are photos
    path = write(tmp_path / "x.parquet", written)
    stream = dil(train=path, domains=("art",), key_column="name", shots_list=str(listed))
    assert "2 of 6 listed items are of domains that are not used" in stream.notes


def with_numbers(numbers: Sequence[int], kind: pa.DataType | None = None) -> pa.Table:
    """The table with class numbers in place of the names."""
    return table().set_column(1, "label", pa.array(numbers).cast(kind or pa.int64()))


NUMBERS = [CLASSES.index(label) for label in table()["label"].to_pylist()]


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint8(), pa.float64()])
def test_class_numbers_get_the_names_that_are_given(tmp_path: Path, kind: pa.DataType) -> None:
    path = write(tmp_path / "x.parquet", with_numbers(NUMBERS, kind))
    (tmp_path / "names.json").write_text(json.dumps(CLASSES))
    (tmp_path / "names.txt").write_text("\r\n".join(CLASSES) + "\r\n")
    plain = fingerprints(cil(train=write(tmp_path / "plain.parquet")))
    for names in (list(CLASSES), str(tmp_path / "names.json"), str(tmp_path / "names.txt")):
        assert fingerprints(cil(train=path, class_names=names)) == plain


def test_class_numbers_without_names_of_their_own_or_out_of_range_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", with_numbers([0, 1, 2, -1] * 6))
    column = f"{path}: column 'label' holds class numbers without names; give class_names, a list or a file"
    rows = ", ".join(f"row {number}" for number in range(1, 25) if number % 4 in (3, 0))
    assert problems(train=path) == (column,)
    assert problems(train=path, class_names=["a", "b"], tasks=1)[0] == (
        f"{path}: 12 rows have a label outside of 0 to 1: {rows}"
    )
    named = write(tmp_path / "named.parquet")
    assert problems(train=named, class_names=["a"]) == (
        f"{named}: column 'label' holds class names already; expected new names by these, "
        'e.g. class_names: {"4": four}, or no class_names',
    )
    (missing,) = problems(train=path, class_names=str(tmp_path / "none.txt"))
    assert "expected a list, or a file of names" in missing
    (tmp_path / "gap.txt").write_text("ant\n\ncat\ncrane\n\n")  # all later names would move by one
    gap = "no name for class 1; expected one for each, in the order of their numbers from 0"
    for names in (str(tmp_path / "gap.txt"), ["ant", " ", "cat", "crane"]):
        assert problems(train=path, class_names=names) == (f"class_names {names!r}: {gap}",)
    twice = ["ant", "crane", "cat", "crane"]
    told = "classes 1, 3 are all named 'crane'; expected a name of its own for each"
    path = write(tmp_path / "y.parquet", with_numbers(NUMBERS))
    assert problems(train=path, class_names=twice)[0] == f"class_names: {told}"
    kept = json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": twice}}}})
    path = write(tmp_path / "kept.parquet", with_numbers(NUMBERS).replace_schema_metadata({"huggingface": kept}))
    assert problems(train=path)[0] == f"{path}: column 'label': {told}"


def test_columns_that_are_missing_or_of_a_wrong_type_are_all_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", table(flag=[True] * 24, domian=["x"] * 24))
    known = "Known: domian, flag, image, label."
    assert problems(train=path, image_column="img", label_column="lable", key_column="id") == (
        f"{path}: image_column: unknown column 'img'. Did you mean 'image'? {known}",
        f"{path}: label_column: unknown column 'lable'. Did you mean 'label'? {known}",
        f"{path}: key_column: unknown column 'id'. {known}",
    )
    assert problems(train=path, image_column="label", label_column="flag") == (
        f"{path}: column 'label' holds string; expected image bytes, or a struct with a field of bytes",
        f"{path}: column 'flag' holds bool; expected text or whole numbers",
    )
    assert problems_of(lambda: dil(train=path)) == (
        f"{path}: domain_column: unknown column 'domain'. Did you mean 'domian'? {known}",
    )


def test_rows_without_a_label_a_key_or_a_domain_and_keys_that_come_twice_are_named(tmp_path: Path) -> None:
    labels: list[str | None] = list(table()["label"].to_pylist())
    labels[3], labels[20] = None, ""
    names = [f"img{i}" for i in range(23)] + [None]
    written = table(name=names, domain=["x"] * 5 + [None] + ["x"] * 18).set_column(1, "label", pa.array(labels))
    path = write(tmp_path / "x.parquet", written)
    assert problems_of(lambda: dil(train=path, key_column="name", shots=1, test_per_class=1)) == (
        f"{path}: 2 rows have no label: img3, img20",
        f"{path}: 1 rows have no domain: img5",
        f"{path}: 1 rows have no name: row 24",
    )
    path = write(tmp_path / "y.parquet", table(name=["same"] * 2 + [f"img{i}" for i in range(22)]))
    assert "1 keys are used more than once: same" in problems(train=path, key_column="name")


def test_the_copy_of_a_table_is_used_again_until_the_file_changes_and_a_fault_of_it_is_named(tmp_path: Path) -> None:
    path, cache = write(tmp_path / "x.parquet"), tmp_path / "cache"
    first = cil(train=path, cache=cache)
    (copy,) = (cache / "tables").iterdir()
    made = copy.stat().st_mtime_ns
    assert fingerprints(cil(train=path, cache=cache)) == fingerprints(first)
    assert copy.stat().st_mtime_ns == made
    shutil.copy2(path, tmp_path / "moved.parquet")  # is copied again, but its images are known by their content
    example = examples(cil(train=str(tmp_path / "moved.parquet"), cache=cache))[0]
    source = example.media.args[0]  # type: ignore[attr-defined]
    assert (source.name, source.stamp()) == (f"sha256:{example.content}", "content")
    copy.write_bytes(copy.read_bytes()[:200])
    (problem,) = problems(train=path, cache=cache)
    assert problem.startswith(f"{copy}: cannot be read (") and problem.endswith("remove the file, it is made anew")
    write(tmp_path / "x.parquet", table(7))
    assert fingerprints(cil(train=path, cache=cache)) != fingerprints(first)
    assert len(list((cache / "tables").iterdir())) == 3
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tables").write_text("a file where a folder should be")
    (problem,) = problems(train=path, cache=tmp_path / "other")  # not blamed on the table
    assert problem.startswith(f"{tmp_path / 'other' / 'tables'}: no copy of {path} can be written there (")


def test_the_real_tinyimagenet_table_gives_every_item_by_its_file_name(tmp_path: Path) -> None:
    folder = shared("tinyimagenet")
    train, test = f"{folder}/train_5shots.parquet", f"{folder}/val_5each.parquet"
    settings: dict[str, Any] = {"tasks": 10, "classes_per_task": 20, "shots": 5, "test_per_class": None}
    stream = cil(tmp_path, train=train, test=test, key_column="file_name", **settings)
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(100, 100)] * 10
    keys = {example.key for task in stream.tasks for example in task.train}
    assert keys == {f"train/{name}" for name in pq.read_table(train)["file_name"].to_pylist()}


def test_classes_of_a_table_may_go_by_other_names_by_number_where_it_has_no_names(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet")
    present = {example.key: example.label for example in examples(cil(train=path))}
    stream = cil(train=path, class_names={"cat": "tom"})
    assert {example.key: example.label for example in examples(stream)} == {
        key: "tom" if label == "cat" else label for key, label in present.items()
    }
    numbers = write(tmp_path / "n.parquet", with_numbers(NUMBERS))
    named = cil(train=numbers, class_names={str(number): name for number, name in enumerate(CLASSES)})
    by_list = cil(train=numbers, class_names=list(CLASSES))
    assert [task.classes for task in named.tasks] == [task.classes for task in by_list.tasks]
    (problem,) = problems(train=numbers, class_names={"0": "ant", "1": "bee"}, tasks=1)
    assert problem.startswith(f"{numbers}: 12 rows have a class number that has no name in class_names: row ")
