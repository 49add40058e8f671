from functools import partial
from pathlib import Path

from task_streams.datasets.domainnet import DOMAINS
from task_streams.scenarios.fingerprint import check_stream
from tests.task_streams.image_trees import add_lines, problems_of, write_image, write_images, write_lines
from tests.task_streams.streams import built

CLASSES = ("The_Eiffel_Tower", "aircraft_carrier", "t-shirt")
NUMBERS = {"aircraft_carrier": 0, "t-shirt": 301, "The_Eiffel_Tower": 309}


def write_archive(root: Path, domains: tuple[str, ...] = DOMAINS) -> Path:
    """Three classes of five images in each domain, three of them in the training list."""
    for domain in domains:
        paths = [(f"{domain}/{c}/{domain}_{NUMBERS[c]:03d}_{i:06d}.jpg", c, i) for c in CLASSES for i in range(5)]
        write_images(root, [path for path, _, _ in paths])
        write_lines(root / f"{domain}_train.txt", [f"{path} {NUMBERS[c]}" for path, c, i in paths if i < 3])
        write_lines(root / f"{domain}_test.txt", [f"{path} {NUMBERS[c]}" for path, c, i in paths if i >= 3])
    return root


stream = partial(built, "domainnet_dil", shots=2)


def test_every_fault_of_the_lists_is_reported_at_once(tmp_path: Path) -> None:
    root = write_archive(tmp_path, ("real", "sketch"))
    write_image(tmp_path / "outside.jpg")
    train = (root / "real_train.txt").read_text().splitlines()
    add_lines(
        root / "real_train.txt", "real/bat/none.jpg 7", "/etc/x.jpg 0", "real/../outside.jpg 0", "sketch/bat/x.jpg 7"
    )
    add_lines(root / "real_train.txt", train[0], "real/bat/x.jpg")
    add_lines(root / "sketch_test.txt", "sketch/t-shirt/sketch_301_000000.jpg 302")
    (root / "sketch" / "aircraft_carrier" / "sketch_000_000001.jpg").unlink()
    assert problems_of(lambda: stream(root, domains=("real", "sketch"))) == (
        "expected one class for each class number of the lists; found 301, 302 = t-shirt",
        "real_train.txt: expected 'real/<class>/<image> <class number>' a line; found 3 others: "
        "line 11 '/etc/x.jpg 0', line 13 'sketch/bat/x.jpg 7', line 15 'real/bat/x.jpg'",
        f"real_train.txt: real/../outside.jpg: leads out of {root}; refused",
        "real_train.txt: names 1 files more than once: real/The_Eiffel_Tower/real_309_000000.jpg",
        "real_train.txt: 1 files that it names are missing: real/bat/none.jpg",
        "sketch_train.txt: 1 files that it names are missing: sketch/aircraft_carrier/sketch_000_000001.jpg",
        "sketch: 1 files are in both lists: sketch/t-shirt/sketch_301_000000.jpg",
    )


def test_a_folder_that_is_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    root = write_archive(tmp_path / "root", ("real",))
    (root / "real" / "t-shirt").rename(tmp_path / "t-shirt")
    (root / "real" / "t-shirt").symlink_to(tmp_path / "t-shirt")
    assert problems_of(lambda: stream(root, domains=("real",)))[:2] == (
        f"real_train.txt: real/t-shirt: leads out of {root}; refused",
        f"real_test.txt: real/t-shirt: leads out of {root}; refused",
    )


def test_each_domain_becomes_a_task_and_the_lists_are_its_splits(tmp_path: Path) -> None:
    made = stream(write_archive(tmp_path))
    # RandomState(0).permutation(6) = [5, 2, 1, 3, 0, 4] over the sorted domains.
    assert [task.name for task in made.tasks] == ["sketch", "painting", "infograph", "quickdraw", "clipart", "real"]
    assert all(task.seen == CLASSES for task in made.tasks)
    assert [(len(task.train), len(task.test)) for task in made.tasks] == [(6, 6)] * 6
    # Images 3 and 4 of each class are in the test list.
    assert {e.key[-10:-4] for task in made.tasks for e in task.test} == {"000003", "000004"}
    assert check_stream(made) == []
    short = "3 classes have fewer than 10 test examples: The_Eiffel_Tower 2, aircraft_carrier 2, t-shirt 2"
    assert made.notes[0] == f"sketch: {short}"


def test_some_domains_are_enough_when_they_are_named_and_missing_images_left_out_on_request(tmp_path: Path) -> None:
    root = write_archive(tmp_path, ("real", "sketch"))
    made = stream(root, domains=("sketch", "real"), domain_order="given", test_per_class=None)
    assert ([task.name for task in made.tasks], made.notes) == (["sketch", "real"], ())
    (root / "real/t-shirt/real_301_000004.jpg").unlink()
    made = stream(root, domains=("real",), on_damaged="skip", test_per_class=None)
    assert made.notes == (
        "real_test.txt: 1 files that it names are missing: real/t-shirt/real_301_000004.jpg; left out",
    )
