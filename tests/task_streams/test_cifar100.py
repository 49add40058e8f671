from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from task_streams import Workspace
from task_streams.datasets import cifar100 as cifar
from task_streams.datasets.cifar100 import CIFAR10, CIFAR100, Archive
from task_streams.errors import UserError
from task_streams.sources.records import Damaged
from task_streams.types import TaskStream
from tests.shared_data import shared
from tests.task_streams.streams import built, problems_of, sizes

NAMES = ("apple", "maple_tree", "sea")


def item(archive: Archive, label: int, value: int) -> bytes:
    """An item of a class: red ``value``, green ``label``, blue 7 everywhere, and 99 as the coarse label."""
    planes = bytes([value]) * 1024 + bytes([label]) * 1024 + bytes([7]) * 1024
    return (bytes([99]) if archive.labels == 2 else b"") + bytes([label]) + planes


def write(root: Path, archive: Archive, names: Sequence[str] = NAMES, per_file: int = 12) -> Path:
    folder = root / archive.folder
    folder.mkdir()
    (folder / archive.names).write_text("\n".join(names) + "\n\n")
    for number, file in enumerate((*archive.train, archive.test)):
        items = [item(archive, i % len(names), 40 * number + i) for i in range(per_file)]
        (folder / file).write_bytes(b"".join(items))
    return folder


def stream(name: str, root: Path, cache: Path | None = None, **changes: Any) -> TaskStream:
    settings = {"tasks": 3, "classes_per_task": 1, "shots": 3, "test_per_class": 2} | changes
    return built(name, root, workspace=Workspace(cache), **settings)


@pytest.mark.parametrize(("name", "archive"), [("cifar100_cil", CIFAR100), ("cifar10_cil", CIFAR10)])
@pytest.mark.parametrize("nested", [True, False])
def test_an_archive_becomes_a_stream(tmp_path: Path, name: str, archive: Archive, nested: bool) -> None:
    folder = write(tmp_path, archive)
    found = stream(name, tmp_path if nested else folder)
    assert sorted(found.labels) == list(NAMES)
    assert sizes(found) == [(3, 2)] * 3


def test_real_images_come_back_pixel_by_pixel(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    tables = {split: pq.read_table(shared("cifar100") / f"{split}.parquet") for split in ("train", "test")}
    names = sorted(set(tables["train"]["label"].to_pylist()))
    (folder / "fine_label_names.txt").write_text("\n".join(names))
    expected: dict[str, tuple[str, bytes]] = {}
    for split, table in tables.items():
        data = b""
        for number, row in enumerate(table.slice(0, 400).to_pylist()):
            image = np.asarray(Image.open(BytesIO(row["image"])).convert("RGB"))
            planes = image.transpose(2, 0, 1).tobytes()
            expected[f"{split}/{number:05d}"] = (row["label"], planes)
            data += bytes([0, names.index(row["label"])]) + planes
        (folder / f"{split}.bin").write_bytes(data)
    found = cifar.read_archive(CIFAR100, cifar.Cifar100CilConfig(root=str(folder)))
    assert (len(found.records), found.problems, len(found.classes)) == (800, (), 100)
    assert {record.key: (record.label, record.source.read()) for record in found.records} == expected


def test_only_the_pickled_version_is_refused_with_the_name_of_the_right_archive(tmp_path: Path) -> None:
    pickled = tmp_path / "cifar-100-python"
    pickled.mkdir()
    for name in ("meta", "train", "test"):
        (pickled / name).write_bytes(b"\x80\x04.")
    for root in (tmp_path, pickled):
        with pytest.raises(
            UserError, match=r"found the pickled Python version.*Get cifar-100-binary\.tar\.gz from https"
        ):
            stream("cifar100_cil", root)


def test_files_that_are_cut_and_labels_without_a_name_are_all_named(tmp_path: Path) -> None:
    folder = write(tmp_path, CIFAR100)
    whole = (folder / "train.bin").read_bytes()
    (folder / "train.bin").write_bytes(whole[:-10])
    (folder / "test.bin").write_bytes((folder / "test.bin").read_bytes() + item(CIFAR100, 3, 0))
    # 12 items of 3074 bytes are 36888, ten less are left.
    assert problems_of(lambda: stream("cifar100_cil", tmp_path)) == (
        f"{folder}/train.bin: 36878 bytes; expected a multiple of 3074 (unpack cifar-100-binary.tar.gz again)",
        "CIFAR-100: labels outside of 0 to 2: test.bin item 12: 3",
    )


def test_a_blank_line_between_names_is_refused(tmp_path: Path) -> None:
    names = write(tmp_path, CIFAR100) / "fine_label_names.txt"
    first, *others = names.read_text().splitlines()
    names.write_text("\n".join([first, "", *others]))
    told = problems_of(lambda: stream("cifar100_cil", tmp_path))
    assert "fine_label_names.txt: a blank line between names; expected the name of each class in its line" in told


def test_items_are_numbered_over_all_files_and_pixels_are_planes_of_red_green_and_blue(tmp_path: Path) -> None:
    write(tmp_path, CIFAR10)
    records = {
        record.key: record for record in cifar.read_archive(CIFAR10, cifar.Cifar10CilConfig(root=str(tmp_path))).records
    }
    assert len(records) == 6 * 12
    # The third file begins at item 24, and its item 1 has red 40 * 2 + 1 = 81 and label 1.
    image = cifar.planes_image(records["train/00025"].source.read())
    assert (image.size, np.unique(np.asarray(image).reshape(-1, 3), axis=0).tolist()) == ((32, 32), [[81, 1, 7]])
    assert records["train/00025"].label == "maple_tree"
    assert records["test/00000"].source.read()[0] == 200


def test_a_second_build_is_the_same_and_a_changed_file_is_read_again(tmp_path: Path) -> None:
    folder = write(tmp_path, CIFAR100)
    first = stream("cifar100_cil", tmp_path, tmp_path / "cache")
    assert stream("cifar100_cil", tmp_path, tmp_path / "cache") == first
    with open(folder / "train.bin", "r+b") as file:  # other pixels and another time of change
        file.seek(2)
        file.write(b"\xff" * 3072)
    changed = stream("cifar100_cil", tmp_path, tmp_path / "cache", shots=None)
    (example,) = [e for task in changed.tasks for e in task.train if e.key == "train/00000"]
    assert np.asarray(example.media()).min() == 255
    (folder / "train.bin").write_bytes(b"")  # shrinks after the build
    with pytest.raises(Damaged, match="0 of 3072 bytes of pixels"):
        example.media()
