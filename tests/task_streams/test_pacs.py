from functools import partial
from pathlib import Path

import pytest

from task_streams.datasets.pacs import DOMAINS, PacsConfig
from task_streams.errors import UserError
from task_streams.scenarios.fingerprint import check_stream
from tests.task_streams.image_trees import problems_of, write_images, write_lines
from tests.task_streams.streams import built

CLASSES = ("dog", "elephant")


def write_tree(root: Path, images: str = "", each: int = 5) -> Path:
    write_images(
        root, [f"{images}{d}/{label}/pic_{i:03d}.jpg" for d in DOMAINS for label in CLASSES for i in range(each)]
    )
    return root


def write_lists(folder: Path) -> None:
    """The official lists: of five images the last is in crossval; the list named test holds all five."""
    for domain in DOMAINS:
        rows = [(f"{domain}/{c}/pic_{i:03d}.jpg {n}", i) for n, c in enumerate(CLASSES, start=1) for i in range(5)]
        write_lines(folder / f"{domain}_train_kfold.txt", [row for row, i in rows if i < 4])
        write_lines(folder / f"{domain}_crossval_kfold.txt", [row for row, i in rows if i == 4])
        write_lines(folder / f"{domain}_test_kfold.txt", [row for row, _ in rows])


stream = partial(built, "pacs_dil", shots=2)


@pytest.mark.parametrize("images", ["", "kfold/", "images/", "images/kfold/"])
def test_the_plain_tree_is_found_in_every_copy_and_held_out_from(tmp_path: Path, images: str) -> None:
    made = stream(write_tree(tmp_path, images))
    # RandomState(0).permutation(4) = [2, 3, 1, 0] over art_painting, cartoon, photo, sketch.
    assert [task.name for task in made.tasks] == ["photo", "sketch", "cartoon", "art_painting"]
    assert [(len(task.train), len(task.test)) for task in made.tasks] == [(4, 2)] * 4
    assert all(e.key.startswith(f"{images}photo/") for e in made.tasks[0].train)
    assert check_stream(made) == []


@pytest.mark.parametrize(("images", "lists"), [("", ""), ("images/kfold/", "splits"), ("kfold/", "pacs_label")])
def test_with_the_official_lists_the_crossval_items_are_tested_on(tmp_path: Path, images: str, lists: str) -> None:
    root = write_tree(tmp_path, images)
    write_lists(root / lists)
    made = stream(root, shots=None)
    assert [(len(task.train), len(task.test)) for task in made.tasks] == [(8, 2)] * 4
    assert {e.key.rpartition("/")[2] for task in made.tasks for e in task.test} == {"pic_004.jpg"}
    assert check_stream(made) == []


def test_missing_lists_and_faults_of_lists_are_named(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    write_lists(root)
    write_lines(root / "photo_crossval_kfold.txt", ["photo/dog/pic_004.jpg 2", "photo/dog/none.jpg 1"])
    assert problems_of(lambda: stream(root, domains=("photo",))) == (
        "expected one class for each class number of the lists; found 2 = dog, elephant, 1, 2 = dog",
        "photo_crossval_kfold.txt: 1 files that it names are missing: photo/dog/none.jpg",
        "photo: no test items of 1 of the 2 classes: elephant",
        "photo: no test examples for 1 classes: elephant",
    )
    (root / "photo_crossval_kfold.txt").unlink()
    assert problems_of(lambda: stream(root)) == (
        f"{root}: expected the lists of all domains, or none; missing: photo_crossval_kfold.txt",
    )
    with pytest.raises(UserError, match=r"unknown domain 'photos'\. Did you mean 'photo'\?"):
        PacsConfig(domains=("photos",))
    (root / "photo").rename(root / "Photo")
    with pytest.raises(UserError, match=r"domains art_painting, cartoon, photo and sketch; found .*Photo.*\. Where"):
        stream(root)
