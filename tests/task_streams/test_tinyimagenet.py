import json
from functools import partial
from pathlib import Path

from PIL import Image

from task_streams.datasets.tinyimagenet import TinyImageNetConfig, tinyimagenet
from task_streams.scenarios.fingerprint import check_stream
from tests.shared_data import shared
from tests.task_streams.image_trees import add_lines, problems_of, write_image, write_images, write_lines
from tests.task_streams.streams import built

WORDS = {
    "n02124075": "Egyptian cat",
    "n03992509": "potter's wheel",
    "n03902125": "pay-phone, pay-station",
    "n04099969": "rocking chair, rocker",
}
NAMES = ("Egyptian_cat", "pay-phone", "potter's_wheel", "rocking_chair")  # sorted


def write_archive(root: Path, train: int = 3, val: int = 2) -> Path:
    """The original layout with four classes; ``words.txt`` names more wnids than are used."""
    write_lines(root / "wnids.txt", WORDS)
    write_lines(root / "words.txt", [f"{w}\t{names}" for w, names in {"n00001740": "entity", **WORDS}.items()])
    write_images(root, [f"train/{w}/images/{w}_{i}.JPEG" for w in WORDS for i in range(train)])
    for wnid in WORDS:
        write_lines(root / "train" / wnid / f"{wnid}_boxes.txt", [f"{wnid}_0.JPEG\t0\t0\t9\t9"])
    rows = [(f"val_{4 * i + n}.JPEG", wnid) for i in range(val) for n, wnid in enumerate(WORDS)]
    write_images(root, [f"val/images/{file}" for file, _ in rows])
    write_lines(root / "val" / "val_annotations.txt", [f"{file}\t{wnid}\t0\t31\t60\t60" for file, wnid in rows])
    write_images(root, ["test/images/test_0.JPEG"])
    return root


stream = partial(built, "tinyimagenet_cil", tasks=2, classes_per_task=2, shots=2)


def test_the_original_archive_becomes_a_stream_with_the_validation_split_as_test(tmp_path: Path) -> None:
    made = stream(write_archive(tmp_path))
    # RandomState(0).permutation(4) = [2, 3, 1, 0] over the sorted names.
    assert [task.classes for task in made.tasks] == [("potter's_wheel", "rocking_chair"), ("pay-phone", "Egyptian_cat")]
    assert [(len(task.train), len(task.test)) for task in made.tasks] == [(4, 4), (4, 4)]
    first = made.tasks[0]
    assert {Path(e.key).parent.as_posix() for e in first.train} == {
        "train/n03992509/images",
        "train/n04099969/images",
    }
    # n03992509 is the second and n04099969 the fourth class: val_1, val_5 and val_3, val_7.
    assert [e.key for e in sorted(first.test, key=lambda e: e.key)] == [
        f"val/images/val_{i}.JPEG" for i in (1, 3, 5, 7)
    ]
    assert (check_stream(made), made.notes) == ([], ())


def test_all_200_class_names_are_those_of_rapos_label_map(tmp_path: Path) -> None:
    entries = json.loads((shared("rapo_lists") / "image_cls_cil/label_maps/tinyimagenet.json").read_text())["entries"]
    expected = {entry["source_name"]: entry["class_name"] for entry in entries}
    root = write_archive(tmp_path)
    (root / "words.txt").write_bytes((shared("tinyimagenet") / "tiny-imagenet-200" / "words.txt").read_bytes())
    write_lines(root / "wnids.txt", expected)
    for wnid in expected:  # nothing is read but names
        (root / "train" / wnid / "images").mkdir(parents=True, exist_ok=True)
        (root / "train" / wnid / "images" / "0.JPEG").touch()
    records = tinyimagenet(TinyImageNetConfig(root=str(root))).records
    assert len(expected) == 200
    assert {r.key.split("/")[1]: r.label for r in records if r.split == "train"} == expected


def test_the_real_sample_has_20_classes_of_5_and_3_images() -> None:
    root = shared("tinyimagenet") / "tiny-imagenet-200"
    made = stream(root, 1993, tasks=4, classes_per_task=5, shots=5)
    assert [(len(task.train), len(task.test)) for task in made.tasks] == [(25, 15)] * 4
    images = [e.media() for task in made.tasks for e in task.train]
    assert {image.mode for image in images if isinstance(image, Image.Image)} == {"RGB"}
    assert {image.size for image in images if isinstance(image, Image.Image)} == {(64, 64)}
    assert (check_stream(made), made.notes) == ([], ())


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    root = write_archive(tmp_path)
    plain = stream(root)
    for path in (root / "wnids.txt", root / "words.txt", root / "val/val_annotations.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert stream(root) == plain


def test_everything_wrong_with_the_lists_is_reported_at_once(tmp_path: Path) -> None:
    root = write_archive(tmp_path)
    add_lines(root / "wnids.txt", "n02124075", "cat", "n09999999", "n07749582")
    add_lines(root / "words.txt", "n07749582\tlemon")
    wrong = ("val_1.JPEG", "val_2.JPEG\tn01443537\t0\t0\t1\t1", "../x\tn02124075")
    add_lines(root / "val/val_annotations.txt", "val_0.JPEG\tn02124075\t0\t0\t1\t1", *wrong)
    assert problems_of(lambda: stream(root)) == (
        "wnids.txt: expected one wnid a line, e.g. n02124075; found cat",
        "words.txt: no name for 1 wnids of wnids.txt: n09999999",
        "wnids.txt: 1 wnids are listed more than once: n02124075",
        "val/val_annotations.txt: expected '<file> <wnid> …' with tabs between; "
        "found line 10 'val_1.JPEG', line 12 '../x\\tn02124075'",
        "val/val_annotations.txt: wnids that wnids.txt does not list: n01443537 (line 11)",
        "val/val_annotations.txt: names 1 files more than once: val/images/val_0.JPEG",
        "no training items of 1 of the 5 classes: lemon",
        "no test items of 1 of the 5 classes: lemon",
    )


def test_links_out_of_the_root_are_refused_and_not_read(tmp_path: Path) -> None:
    outside = write_image(tmp_path / "outside.JPEG")
    root = write_archive(tmp_path / "root")
    (root / "val/images/val_0.JPEG").unlink()
    (root / "val/images/val_0.JPEG").symlink_to(outside)
    (root / "train/n02124075/images/n02124075_9.JPEG").symlink_to(tmp_path / "none.JPEG")
    assert problems_of(lambda: stream(root)) == (
        f"{root}/train/n02124075/images/n02124075_9.JPEG: a link that leads out of {root}; refused",
        f"val/val_annotations.txt: {root}/val/images/val_0.JPEG: a link that leads out of {root}; refused",
    )


def test_missing_files_and_folders_that_are_not_listed_are_left_out_and_recorded(tmp_path: Path) -> None:
    root = write_archive(tmp_path, val=3)
    write_images(root, ["train/n01443537/images/n01443537_0.JPEG"])
    for name in ("val_3", "val_6"):
        (root / f"val/images/{name}.JPEG").unlink()
    lost = "val/val_annotations.txt: 2 files that it names are missing: val/images/val_3.JPEG, val/images/val_6.JPEG"
    assert problems_of(lambda: stream(root)) == (lost,)
    made = stream(root, on_damaged="skip")
    assert made.notes == (
        "train: 1 folders that wnids.txt does not list left out: n01443537",
        f"{lost}; left out",
    )
    assert set(made.labels) == set(NAMES)
    config = TinyImageNetConfig()  # the defaults are RaPO's protocol
    assert (config.sizes, config.shots, config.test_per_class, config.draw_seed) == ((20,) * 10, 5, None, 42)


def test_two_wnids_of_one_name_are_not_merged(tmp_path: Path) -> None:
    root = write_archive(tmp_path)
    text = (root / "words.txt").read_text().replace("Egyptian cat", "rocking chair, cat")
    (root / "words.txt").write_text(text)
    assert problems_of(lambda: stream(root))[0] == (
        "classes n02124075, n04099969 are all named 'rocking_chair'; expected a name of its own for each"
    )
