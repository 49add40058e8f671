"""DomainNet, Office-Home and PACS in their copies, and every mistake in their lists."""

from functools import partial
from pathlib import Path

import pytest

from task_streams.datasets import domainnet as domainnet_data
from task_streams.datasets.officehome import OfficeHomeConfig
from task_streams.datasets.pacs import DOMAINS, PacsConfig
from task_streams.errors import UserError
from tests.task_streams.streams import add_lines, built, cut, problems_of, sizes, write_image, write_images, write_lines

OBJECTS = ("The_Eiffel_Tower", "aircraft_carrier", "t-shirt")
NUMBERS = {"aircraft_carrier": 0, "t-shirt": 301, "The_Eiffel_Tower": 309}


def write_domainnet(root: Path, domains: tuple[str, ...] = domainnet_data.DOMAINS) -> Path:
    """Three classes of five images in each domain, three of them in the training list."""
    for domain in domains:
        paths = [(f"{domain}/{c}/{domain}_{NUMBERS[c]:03d}_{i:06d}.jpg", c, i) for c in OBJECTS for i in range(5)]
        write_images(root, [path for path, _, _ in paths])
        write_lines(root / f"{domain}_train.txt", [f"{path} {NUMBERS[c]}" for path, c, i in paths if i < 3])
        write_lines(root / f"{domain}_test.txt", [f"{path} {NUMBERS[c]}" for path, c, i in paths if i >= 3])
    return root


domainnet = partial(built, "domainnet_dil", shots=2)


def test_every_fault_of_the_lists_is_reported_at_once_and_a_folder_that_leads_out_refused(tmp_path: Path) -> None:
    root = write_domainnet(tmp_path, ("real", "sketch"))
    write_image(tmp_path / "outside.jpg")
    train = (root / "real_train.txt").read_text().splitlines()
    add_lines(
        root / "real_train.txt", "real/bat/none.jpg 7", "/etc/x.jpg 0", "real/../outside.jpg 0", "sketch/bat/x.jpg 7"
    )
    add_lines(root / "real_train.txt", train[0], "real/bat/x.jpg")
    add_lines(root / "sketch_test.txt", "sketch/t-shirt/sketch_301_000000.jpg 302")
    (root / "sketch" / "aircraft_carrier" / "sketch_000_000001.jpg").unlink()
    assert problems_of(lambda: domainnet(root, domains=("real", "sketch"))) == (
        "expected one class for each class number of the lists; found 301, 302 = t-shirt",
        "real_train.txt: expected 'real/<class>/<image> <class number>' a line; found 3 others: "
        "line 11 '/etc/x.jpg 0', line 13 'sketch/bat/x.jpg 7', line 15 'real/bat/x.jpg'",
        f"real_train.txt: real/../outside.jpg: leads out of {root}; refused",
        "real_train.txt: names 1 files more than once: real/The_Eiffel_Tower/real_309_000000.jpg",
        "real_train.txt: 1 files that it names are missing: real/bat/none.jpg",
        "sketch_train.txt: 1 files that it names are missing: sketch/aircraft_carrier/sketch_000_000001.jpg",
        "sketch: 1 files are in both lists: sketch/t-shirt/sketch_301_000000.jpg",
    )
    root = write_domainnet(tmp_path / "root", ("real",))
    (root / "real" / "t-shirt").rename(tmp_path / "t-shirt")
    (root / "real" / "t-shirt").symlink_to(tmp_path / "t-shirt")
    assert problems_of(lambda: domainnet(root, domains=("real",)))[:2] == (
        f"real_train.txt: real/t-shirt: leads out of {root}; refused",
        f"real_test.txt: real/t-shirt: leads out of {root}; refused",
    )


def test_each_of_the_named_domains_becomes_a_task_and_the_lists_are_its_splits(tmp_path: Path) -> None:
    made = domainnet(write_domainnet(tmp_path))
    # RandomState(0).permutation(6) = [5, 2, 1, 3, 0, 4] over the sorted domains.
    assert [task.name for task in made.tasks] == ["sketch", "painting", "infograph", "quickdraw", "clipart", "real"]
    assert all(task.seen == OBJECTS for task in made.tasks)
    assert sizes(made) == [(6, 6)] * 6
    # Images 3 and 4 of each class are in the test list.
    assert {e.key[-10:-4] for task in made.tasks for e in task.test} == {"000003", "000004"}
    short = "3 classes have fewer than 10 test examples: The_Eiffel_Tower 2, aircraft_carrier 2, t-shirt 2"
    assert made.notes[0] == f"sketch: {short}"
    root = write_domainnet(tmp_path / "some", ("real", "sketch"))
    made = domainnet(root, domains=("sketch", "real"), domain_order="given", test_per_class=None)
    assert ([task.name for task in made.tasks], made.notes) == (["sketch", "real"], ())
    (root / "real/t-shirt/real_301_000004.jpg").unlink()
    made = domainnet(root, domains=("real",), on_damaged="skip", test_per_class=None)
    assert made.notes == (
        "real_test.txt: 1 files that it names are missing: real/t-shirt/real_301_000004.jpg; left out",
    )


THINGS = ("Alarm_Clock", "Bed", "TV")


def write_officehome(root: Path, real: str = "Real World", each: int = 5) -> Path:
    for domain in ("Art", "Clipart", "Product", real):
        write_images(root, [f"{domain}/{label}/{i:05d}.jpg" for label in THINGS for i in range(1, each + 1)])
    write_lines(root / "ImageInfo.csv", ["Filename"])
    return root


officehome = partial(built, "officehome_dil", shots=2)


@pytest.mark.parametrize("real", ["Real World", "Real_World"])
def test_each_domain_becomes_a_task_with_all_classes_in_either_copy(tmp_path: Path, real: str) -> None:
    made = officehome(write_officehome(tmp_path, real))
    # RandomState(0).permutation(4) = [2, 3, 1, 0] over Art, Clipart, Product, Real_World.
    assert [task.name for task in made.tasks] == ["Product", "Real_World", "Clipart", "Art"]
    assert all(task.seen == THINGS for task in made.tasks)
    assert (sizes(made), made.notes) == ([(6, 3)] * 4, ())  # one fifth of 5 is held out
    assert {e.key.split("/")[0] for e in made.tasks[1].train} == {real}


def test_unknown_and_missing_domains_and_one_under_two_names_are_named(tmp_path: Path) -> None:
    assert problems_of(lambda: OfficeHomeConfig(domains=("Real", "Art"), shots=0)) == (
        "shots: got 0, expected a whole number from 1, or null.",
        "unknown domain 'Real'. Did you mean 'Real_World'? Known: Art, Clipart, Product, Real_World.",
    )
    root = write_officehome(tmp_path)
    assert [task.name for task in officehome(root, domains=("Real_World", "Art"), domain_order="given").tasks] == [
        *("Real_World", "Art")
    ]
    (root / "Art").rename(root / "art")
    with pytest.raises(UserError, match=r"found Clipart, ImageInfo\.csv, Product, Real World, art \(missing: Art\)"):
        officehome(root)
    (root / "Art").mkdir()
    assert problems_of(lambda: officehome(root)) == (f"{root}/Art: expected <class>/<image>; found no folders",)
    write_images(root, ["Real_World/Bed/1.jpg"])
    with pytest.raises(UserError, match="found both 'Real World' and 'Real_World'; keep one of them"):
        officehome(root)


def test_an_empty_class_and_a_truncated_image_are_named_at_once(tmp_path: Path) -> None:
    root = write_officehome(tmp_path)
    (root / "Product" / "Oven").mkdir()
    for i in range(1, 6):
        cut(write_image(root / f"Art/Bed/{i:05d}.jpg", size=(96, 96)))
    assert problems_of(lambda: officehome(root))[:2] == (
        "Product: no items of 1 of the 4 classes: Oven",
        "5 items cannot be decoded; repair or remove them, or set on_damaged=skip",
    )


ANIMALS = ("dog", "elephant")


def write_pacs(root: Path, images: str = "", each: int = 5) -> Path:
    write_images(
        root, [f"{images}{d}/{label}/pic_{i:03d}.jpg" for d in DOMAINS for label in ANIMALS for i in range(each)]
    )
    return root


def write_lists(folder: Path) -> None:
    """The official lists: of five images the last is in crossval; the list named test holds all five."""
    for domain in DOMAINS:
        rows = [(f"{domain}/{c}/pic_{i:03d}.jpg {n}", i) for n, c in enumerate(ANIMALS, start=1) for i in range(5)]
        write_lines(folder / f"{domain}_train_kfold.txt", [row for row, i in rows if i < 4])
        write_lines(folder / f"{domain}_crossval_kfold.txt", [row for row, i in rows if i == 4])
        write_lines(folder / f"{domain}_test_kfold.txt", [row for row, _ in rows])


pacs = partial(built, "pacs_dil", shots=2)


@pytest.mark.parametrize("images", ["", "kfold/", "images/", "images/kfold/"])
def test_the_plain_tree_is_found_in_every_copy_and_held_out_from(tmp_path: Path, images: str) -> None:
    made = pacs(write_pacs(tmp_path, images))
    # RandomState(0).permutation(4) = [2, 3, 1, 0] over art_painting, cartoon, photo, sketch.
    assert [task.name for task in made.tasks] == ["photo", "sketch", "cartoon", "art_painting"]
    assert sizes(made) == [(4, 2)] * 4
    assert all(e.key.startswith(f"{images}photo/") for e in made.tasks[0].train)


@pytest.mark.parametrize(("images", "lists"), [("", ""), ("images/kfold/", "splits"), ("kfold/", "pacs_label")])
def test_with_the_official_lists_the_crossval_items_are_tested_on(tmp_path: Path, images: str, lists: str) -> None:
    root = write_pacs(tmp_path, images)
    write_lists(root / lists)
    made = pacs(root, shots=None)
    assert sizes(made) == [(8, 2)] * 4
    assert {e.key.rpartition("/")[2] for task in made.tasks for e in task.test} == {"pic_004.jpg"}


def test_missing_lists_and_faults_of_lists_are_named(tmp_path: Path) -> None:
    root = write_pacs(tmp_path)
    write_lists(root)
    write_lines(root / "photo_crossval_kfold.txt", ["photo/dog/pic_004.jpg 2", "photo/dog/none.jpg 1"])
    assert problems_of(lambda: pacs(root, domains=("photo",))) == (
        "expected one class for each class number of the lists; found 2 = dog, elephant, 1, 2 = dog",
        "photo_crossval_kfold.txt: 1 files that it names are missing: photo/dog/none.jpg",
        "photo: no test items of 1 of the 2 classes: elephant",
        "photo: no test examples for 1 classes: elephant; add items, or use others",
    )
    (root / "photo_crossval_kfold.txt").unlink()
    assert problems_of(lambda: pacs(root)) == (
        f"{root}: expected the lists of all domains, or none; missing: photo_crossval_kfold.txt",
    )
    with pytest.raises(UserError, match=r"unknown domain 'photos'\. Did you mean 'photo'\?"):
        PacsConfig(domains=("photos",))
    (root / "photo").rename(root / "Photo")
    with pytest.raises(UserError, match=r"domains art_painting, cartoon, photo and sketch; found .*Photo.*\. Where"):
        pacs(root)
