from functools import partial
from pathlib import Path

import pytest

from task_streams.datasets.officehome import OfficeHomeConfig
from task_streams.errors import UserError
from task_streams.scenarios.fingerprint import check_stream
from tests.task_streams.image_trees import cut, problems_of, write_image, write_images, write_lines
from tests.task_streams.streams import built

CLASSES = ("Alarm_Clock", "Bed", "TV")


def write_archive(root: Path, real: str = "Real World", each: int = 5) -> Path:
    for domain in ("Art", "Clipart", "Product", real):
        write_images(root, [f"{domain}/{label}/{i:05d}.jpg" for label in CLASSES for i in range(1, each + 1)])
    write_lines(root / "ImageInfo.csv", ["Filename"])
    return root


stream = partial(built, "officehome_dil", shots=2)


@pytest.mark.parametrize("real", ["Real World", "Real_World"])
def test_each_domain_becomes_a_task_with_all_classes_in_either_copy(tmp_path: Path, real: str) -> None:
    made = stream(write_archive(tmp_path, real))
    # RandomState(0).permutation(4) = [2, 3, 1, 0] over Art, Clipart, Product, Real_World.
    assert [task.name for task in made.tasks] == ["Product", "Real_World", "Clipart", "Art"]
    assert all(task.seen == CLASSES for task in made.tasks)
    assert [(len(task.train), len(task.test)) for task in made.tasks] == [(6, 3)] * 4  # one fifth of 5 is held out
    assert {e.key.split("/")[0] for e in made.tasks[1].train} == {real}
    assert (check_stream(made), made.notes) == ([], ())


def test_an_unknown_domain_is_refused_before_anything_is_read() -> None:
    assert problems_of(lambda: OfficeHomeConfig(domains=("Real", "Art"), shots=0)) == (
        "shots: got 0, expected a whole number from 1, or null.",
        "unknown domain 'Real'. Did you mean 'Real_World'? Known: Art, Clipart, Product, Real_World.",
    )


def test_a_missing_domain_and_one_under_two_names_are_named(tmp_path: Path) -> None:
    root = write_archive(tmp_path)
    assert [task.name for task in stream(root, domains=("Real_World", "Art"), domain_order="given").tasks] == [
        *("Real_World", "Art"),
    ]
    (root / "Art").rename(root / "art")
    with pytest.raises(UserError, match=r"found Clipart, ImageInfo\.csv, Product, Real World, art \(missing: Art\)"):
        stream(root)
    (root / "Art").mkdir()
    assert problems_of(lambda: stream(root)) == (f"{root}/Art: expected <class>/<image>; found no folders",)
    write_images(root, ["Real_World/Bed/1.jpg"])
    with pytest.raises(UserError, match="found both 'Real World' and 'Real_World'; keep one of them"):
        stream(root)


def test_an_empty_class_and_a_truncated_image_are_named_at_once(tmp_path: Path) -> None:
    root = write_archive(tmp_path)
    (root / "Product" / "Oven").mkdir()
    for i in range(1, 6):
        cut(write_image(root / f"Art/Bed/{i:05d}.jpg", size=(96, 96)))
    assert problems_of(lambda: stream(root))[:2] == (
        "Product: no items of 1 of the 4 classes: Oven",
        "5 items cannot be decoded; repair or remove them, or set on_damaged=skip",
    )
