"""CUB-200, TinyImageNet, ImageNet-R and -A in their official layouts, and every mistake in their lists."""

import json
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from task_streams.datasets.imagenet_ra import wnid_names
from task_streams.datasets.tinyimagenet import TinyImageNetConfig, tinyimagenet
from task_streams.scenarios.fingerprint import check_stream
from task_streams.sources.layout import LINKS_REMEDY
from tests.shared_data import shared
from tests.task_streams.streams import add_lines, built, problems_of, sizes, write_image, write_images, write_lines

FOLDERS = {"1": "001.Black_footed_Albatross", "4": "004.Groove_billed_Ani", "22": "022.Chuck_will_Widow"}
FILES = {"1": "Black_Footed_Albatross", "4": "Groove_Billed_Ani", "22": "Chuck_Will_Widow"}


def write_cub200(root: Path) -> Path:
    """Three classes with ids 1, 4 and 22; images with ids 10, 20, …; two of three are for training."""
    paths = [(c, f"{FOLDERS[c]}/{FILES[c]}_{i:04d}_{i * 7}.jpg", i < 3) for c in FOLDERS for i in range(1, 5)]
    rows = {str(10 * n): row for n, row in enumerate(paths, start=1)}
    write_images(root / "images", [path for _, path, _ in rows.values()])
    write_lines(root / "images.txt", [f"{n} {path}" for n, (_, path, _) in rows.items()])
    write_lines(root / "image_class_labels.txt", [f"{n} {c}" for n, (c, _, _) in rows.items()])
    write_lines(root / "train_test_split.txt", [f"{n} {int(train)}" for n, (_, _, train) in rows.items()])
    write_lines(root / "classes.txt", [f"{c} {name}" for c, name in FOLDERS.items()])
    return root


cub200 = partial(built, "cub200_cil", tasks=3, classes_per_task=1, shots=2)


def test_the_original_archive_with_gaps_in_its_ids_becomes_a_stream(tmp_path: Path) -> None:
    made = cub200(write_cub200(tmp_path))
    # RandomState(0).permutation(3) = [2, 1, 0] over Black…, Chuck…, Groove…
    assert [task.name for task in made.tasks] == ["Groove_billed_Ani", "Chuck_will_Widow", "Black_footed_Albatross"]
    assert sorted(e.key for e in made.tasks[0].test) == [
        "images/004.Groove_billed_Ani/Groove_Billed_Ani_0003_21.jpg",
        "images/004.Groove_billed_Ani/Groove_Billed_Ani_0004_28.jpg",
    ]
    assert [len(task.train) for task in made.tasks] == [2, 2, 2]
    assert (check_stream(made), made.notes) == ([], ())


def test_the_real_sample_has_12_classes_of_3_and_2_images_short_of_5_shots() -> None:
    made = cub200(shared("cub100") / "CUB_200_2011", 1993, tasks=3, classes_per_task=4, shots=5)
    assert sizes(made) == [(12, 8)] * 3
    assert made.notes[0].startswith("12 classes have fewer than 5 training examples: Black_footed_Albatross 3, ")


def test_everything_wrong_with_the_lists_of_cub200_is_reported_at_once(tmp_path: Path) -> None:
    root = write_cub200(tmp_path)
    write_image(root / "images/001.Black_footed_Albatross/x.jpg")
    add_lines(root / "images.txt", "500 001.Black_footed_Albatross/x.jpg", "10 001.Black_footed_Albatross/x.jpg", "510")
    add_lines(root / "image_class_labels.txt", "600 1", "20 9")
    add_lines(root / "train_test_split.txt", "700 1", "30 2")
    add_lines(root / "classes.txt", "5 Crested_Auklet")
    found = problems_of(lambda: cub200(root))
    assert found[:11] == (
        "images.txt: expected '<id> <path>' a line; found line 15 '510'",
        "images.txt: 1 ids are given more than once: 10",
        "image_class_labels.txt: 1 ids are given more than once: 20",
        "train_test_split.txt: 1 ids are given more than once: 30",
        "classes.txt: expected '<id> <NNN.Class_name>' a line; found 5 Crested_Auklet",
        "image_class_labels.txt: no class for 1 ids of images.txt: 500",
        "train_test_split.txt: no split for 1 ids of images.txt: 500",
        "image_class_labels.txt: 1 ids that images.txt does not list: 600",
        "train_test_split.txt: 1 ids that images.txt does not list: 700",
        "image_class_labels.txt: 1 ids with a class that classes.txt does not list: 20 9",
        "train_test_split.txt: 1 ids with neither 1 (training) nor 0 (test): 30 2",
    )
    root = write_cub200(tmp_path / "root")
    write_image(tmp_path / "outside.jpg")
    add_lines(root / "images.txt", "500 ../../outside.jpg", "510 001.Black_footed_Albatross/none.jpg")
    add_lines(root / "image_class_labels.txt", "500 1", "510 1")
    add_lines(root / "train_test_split.txt", "500 1", "510 0")
    add_lines(root / "classes.txt", "30 030.Chuck_will_Widow", "31 031.Fish_Crow")
    assert problems_of(lambda: cub200(root)) == (
        "classes 22, 30 are all named 'Chuck_will_Widow'; expected a name of its own for each",
        f"images.txt: images/../../outside.jpg: leads out of {root}; refused",
        "images.txt: 1 files that it names are missing: images/001.Black_footed_Albatross/none.jpg",
        "no training items of 1 of the 4 classes: Fish_Crow",
        "no test items of 1 of the 4 classes: Fish_Crow",
    )


WORDS = {
    "n02124075": "Egyptian cat",
    "n03992509": "potter's wheel",
    "n03902125": "pay-phone, pay-station",
    "n04099969": "rocking chair, rocker",
}
NAMES = ("Egyptian_cat", "pay-phone", "potter's_wheel", "rocking_chair")  # sorted


def write_tiny(root: Path, val: int = 2) -> Path:
    """The original layout with four classes; ``words.txt`` names more wnids than are used."""
    write_lines(root / "wnids.txt", WORDS)
    write_lines(root / "words.txt", [f"{w}\t{names}" for w, names in {"n00001740": "entity", **WORDS}.items()])
    write_images(root, [f"train/{w}/images/{w}_{i}.JPEG" for w in WORDS for i in range(3)])
    for wnid in WORDS:
        write_lines(root / "train" / wnid / f"{wnid}_boxes.txt", [f"{wnid}_0.JPEG\t0\t0\t9\t9"])
    rows = [(f"val_{4 * i + n}.JPEG", wnid) for i in range(val) for n, wnid in enumerate(WORDS)]
    write_images(root, [f"val/images/{file}" for file, _ in rows])
    write_lines(root / "val" / "val_annotations.txt", [f"{file}\t{wnid}\t0\t31\t60\t60" for file, wnid in rows])
    write_images(root, ["test/images/test_0.JPEG"])
    return root


tiny = partial(built, "tinyimagenet_cil", tasks=2, classes_per_task=2, shots=2)


def test_the_original_archive_becomes_a_stream_with_the_validation_split_as_test(tmp_path: Path) -> None:
    made = tiny(write_tiny(tmp_path))
    # RandomState(0).permutation(4) = [2, 3, 1, 0] over the sorted names.
    assert [task.classes for task in made.tasks] == [("potter's_wheel", "rocking_chair"), ("pay-phone", "Egyptian_cat")]
    assert (sizes(made), made.notes) == ([(4, 4), (4, 4)], ())
    first = made.tasks[0]
    assert {Path(e.key).parent.as_posix() for e in first.train} == {"train/n03992509/images", "train/n04099969/images"}
    # n03992509 is the second and n04099969 the fourth class: val_1, val_5 and val_3, val_7.
    assert [e.key for e in sorted(first.test, key=lambda e: e.key)] == [
        f"val/images/val_{i}.JPEG" for i in (1, 3, 5, 7)
    ]
    for name in ("wnids.txt", "words.txt", "val/val_annotations.txt"):  # as Windows writes them
        data = (tmp_path / name).read_bytes().replace(b"\n", b"\r\n")
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + data)
    assert tiny(tmp_path) == made


def test_all_200_class_names_are_those_of_rapos_label_map(tmp_path: Path) -> None:
    entries = json.loads((shared("rapo_lists") / "image_cls_cil/label_maps/tinyimagenet.json").read_text())["entries"]
    expected = {entry["source_name"]: entry["class_name"] for entry in entries}
    root = write_tiny(tmp_path)
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
    made = tiny(root, 1993, tasks=4, classes_per_task=5, shots=5)
    assert (sizes(made), made.notes) == ([(25, 15)] * 4, ())
    images = [e.media() for task in made.tasks for e in task.train]
    assert {image.mode for image in images if isinstance(image, Image.Image)} == {"RGB"}
    assert {image.size for image in images if isinstance(image, Image.Image)} == {(64, 64)}


def test_everything_wrong_with_the_lists_is_reported_at_once(tmp_path: Path) -> None:
    root = write_tiny(tmp_path)
    add_lines(root / "wnids.txt", "n02124075", "cat", "n09999999", "n07749582")
    add_lines(root / "words.txt", "n07749582\tlemon")
    wrong = ("val_1.JPEG", "val_2.JPEG\tn01443537\t0\t0\t1\t1", "../x\tn02124075")
    add_lines(root / "val/val_annotations.txt", "val_0.JPEG\tn02124075\t0\t0\t1\t1", *wrong)
    assert problems_of(lambda: tiny(root)) == (
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


def test_missing_files_and_folders_that_are_not_listed_are_left_out_and_recorded(tmp_path: Path) -> None:
    root = write_tiny(tmp_path, val=3)
    write_images(root, ["train/n01443537/images/n01443537_0.JPEG"])
    for name in ("val_3", "val_6"):
        (root / f"val/images/{name}.JPEG").unlink()
    lost = "val/val_annotations.txt: 2 files that it names are missing: val/images/val_3.JPEG, val/images/val_6.JPEG"
    assert problems_of(lambda: tiny(root)) == (lost,)
    made = tiny(root, on_damaged="skip")
    assert made.notes == ("train: 1 folders that wnids.txt does not list left out: n01443537", f"{lost}; left out")
    assert set(made.labels) == set(NAMES)
    config = TinyImageNetConfig()  # the defaults are RaPO's protocol
    assert (config.sizes, config.shots, config.test_per_class, config.draw_seed) == ((20,) * 10, 5, None, 42)


def test_links_out_of_the_root_and_two_wnids_of_one_name_are_refused(tmp_path: Path) -> None:
    outside = write_image(tmp_path / "outside.JPEG")
    root = write_tiny(tmp_path / "root")
    (root / "val/images/val_0.JPEG").unlink()
    (root / "val/images/val_0.JPEG").symlink_to(outside)
    (root / "train/n02124075/images/n02124075_9.JPEG").symlink_to(tmp_path / "none.JPEG")
    refused = f"a link that leads out of {root}; refused{LINKS_REMEDY}"
    assert problems_of(lambda: tiny(root)) == (
        f"{root}/train/n02124075/images/n02124075_9.JPEG: {refused}",
        f"val/val_annotations.txt: {root}/val/images/val_0.JPEG: {refused}",
    )
    root = write_tiny(tmp_path / "names")
    text = (root / "words.txt").read_text().replace("Egyptian cat", "rocking chair, cat")
    (root / "words.txt").write_text(text)
    assert problems_of(lambda: tiny(root))[0] == (
        "classes n02124075, n04099969 are all named 'rocking_chair'; expected a name of its own for each"
    )


# Of ImageNet-A, with the names of RaPO's lists: ASCII order puts capitals first.
WNIDS = {"n01694178": "African_chameleon", "n03594945": "jeep", "n03590841": "jack-o'-lantern"}
HELD_OUT = "the archive has no test split: test items are held out by the seeded draw (draw_seed 42)"


def write_official(root: Path, each: int = 5) -> Path:
    """The official archive: wnid folders, names with spaces and apostrophes, one .jpeg, and a README with wnids."""
    names = [f"0.{i:06d}_yellow lady's slipper _ newt_0.9.jpg" for i in range(each - 1)] + ["0.9_newt _ newt_0.9.jpeg"]
    write_images(root, [f"{wnid}/{name}" for wnid in WNIDS for name in names])
    write_lines(root / "README.txt", ["ImageNet-A", "", "Classes:", *(f"{wnid} a name" for wnid in WNIDS)])
    return root


def write_release(root: Path, folders: dict[str, str] = WNIDS) -> Path:
    """The release of class-incremental work: splits, folders named by class."""
    for split, each in (("train", 3), ("test", 2)):
        write_images(root, [f"{split}/{name}/art_{i}.jpg" for name in folders.values() for i in range(each)])
    return root


imagenet_a = partial(built, "imagenet_a_cil", tasks=3, classes_per_task=1, shots=2)


@pytest.mark.parametrize("name", ["imagenet_r", "imagenet_a"])
def test_the_names_of_all_200_wnids_are_those_of_rapos_label_map(name: str) -> None:
    found = json.loads((shared("rapo_lists") / f"image_cls_cil/label_maps/{name}.json").read_text())
    assert len(wnid_names(name)) == 200
    assert wnid_names(name) == {entry["aliases"][0]: entry["class_name"] for entry in found["entries"]}


def test_folders_that_are_no_class_or_the_same_class_are_named_at_once(tmp_path: Path) -> None:
    root = write_official(tmp_path)
    write_images(root, ["jeeps/0.jpg", "n00000000/0.jpg", "jeep/0.jpg"])
    (root / "n03590841").rename(root / "xyz")
    assert problems_of(lambda: imagenet_a(root)) == (
        "folder 'jeeps' is none of the 200 classes; did you mean 'jeep'?",
        "folder 'n00000000' is none of the 200 classes; expected a wnid such as n01443537 or a class name",
        "folder 'xyz' is none of the 200 classes; expected a wnid such as n01443537 or a class name",
        "classes jeep, n03594945 are all named 'jeep'; expected a name of its own for each",
        "no items of 1 of the 3 classes: jack-o'-lantern",
        "imagenet_a_cil: 3 classes asked (3 tasks), but there are 2; ask for fewer",
    )


def test_the_official_archive_is_held_out_from_and_says_so(tmp_path: Path) -> None:
    made = imagenet_a(write_official(tmp_path))
    # RandomState(0).permutation(3) = [2, 1, 0] over African_chameleon, jack-o'-lantern, jeep.
    assert [task.name for task in made.tasks] == ["jeep", "jack-o'-lantern", "African_chameleon"]
    assert (sizes(made), made.notes) == ([(2, 1)] * 3, (HELD_OUT,))  # one fifth of 5
    keys = {e.key for task in imagenet_a(tmp_path, shots=None).tasks for e in (*task.train, *task.test)}
    assert "n03590841/0.9_newt _ newt_0.9.jpeg" in keys
    assert "n03590841/0.000003_yellow lady's slipper _ newt_0.9.jpg" in keys
    for path in sorted((tmp_path / "n03594945").iterdir())[:2]:
        path.unlink()  # 3 images are left: 1 held out, 2 to train on
    assert imagenet_a(tmp_path, shots=4).notes == (HELD_OUT, "1 classes have fewer than 4 training examples: jeep 2")
    write_lines(tmp_path / "README.txt", ["n01498041 stingray", "n01443537 goldfish", *WNIDS])
    assert problems_of(lambda: imagenet_a(tmp_path)) == (
        "README.txt: n01443537 is none of the 200 classes",
        "no items of 1 of the 4 classes: stingray",
    )


@pytest.mark.parametrize(
    "folders",
    [WNIDS, {wnid: wnid for wnid in WNIDS}, {wnid: name.replace("_", " ").lower() for wnid, name in WNIDS.items()}],
    ids=["names", "wnids", "other spelling"],
)
def test_the_release_keeps_its_splits_however_its_folders_are_named(tmp_path: Path, folders: dict[str, str]) -> None:
    made = imagenet_a(write_release(tmp_path, folders))
    assert [task.name for task in made.tasks] == ["jeep", "jack-o'-lantern", "African_chameleon"]
    assert [(len(task.train), len(task.test)) for task in made.tasks] == [(2, 2)] * 3
    assert all(e.key.startswith("train/") for task in made.tasks for e in task.train)
    assert made.notes == ()
    for path in (tmp_path / "test" / folders["n03594945"]).iterdir():
        path.unlink()
    assert problems_of(lambda: imagenet_a(tmp_path))[0] == "no test items of 1 of the 3 classes: jeep"


def test_imagenet_r_has_names_of_its_own_and_another_root_and_half_a_release_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "r", [f"{wnid}/{i}.jpg" for wnid in ("n02814860", "n01677366") for i in range(3)])
    made = built("imagenet_r_cil", tmp_path / "r", tasks=2, classes_per_task=1, shots=1)
    assert made.labels == ("iguana", "lighthouse")
    write_images(tmp_path, ["pets/cat/0.jpg", "pets/dog/0.jpg", "one/train/jeep/0.jpg"])
    assert problems_of(lambda: imagenet_a(tmp_path / "pets"))[0].startswith("folder 'cat' is none of the 200 classes")
    told = "found train/ alone; expected both train/ and test/, or neither"
    assert told in problems_of(lambda: imagenet_a(tmp_path / "one"))[0]
