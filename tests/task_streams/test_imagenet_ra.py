import json
from functools import partial
from pathlib import Path

import pytest

from task_streams.datasets.imagenet_ra import wnid_names
from task_streams.scenarios.fingerprint import check_stream
from tests.shared_data import shared
from tests.task_streams.image_trees import problems_of, write_images, write_lines
from tests.task_streams.streams import built

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


stream = partial(built, "imagenet_a_cil", tasks=3, classes_per_task=1, shots=2)


@pytest.mark.parametrize("name", ["imagenet_r", "imagenet_a"])
def test_the_names_of_all_200_wnids_are_those_of_rapos_label_map(name: str) -> None:
    found = json.loads((shared("rapo_lists") / f"image_cls_cil/label_maps/{name}.json").read_text())
    assert len(wnid_names(name)) == 200
    assert wnid_names(name) == {entry["aliases"][0]: entry["class_name"] for entry in found["entries"]}


def test_folders_that_are_no_class_or_the_same_class_are_named_at_once(tmp_path: Path) -> None:
    root = write_official(tmp_path)
    write_images(root, ["jeeps/0.jpg", "n00000000/0.jpg", "jeep/0.jpg"])
    (root / "n03590841").rename(root / "xyz")
    assert problems_of(lambda: stream(root)) == (
        "folder 'jeeps' is none of the 200 classes; did you mean 'jeep'?",
        "folder 'n00000000' is none of the 200 classes; expected a wnid such as n01443537 or a class name",
        "folder 'xyz' is none of the 200 classes; expected a wnid such as n01443537 or a class name",
        "classes jeep, n03594945 are all named 'jeep'; expected a name of its own for each",
        "no items of 1 of the 3 classes: jack-o'-lantern",
        "imagenet_a_cil: 3 classes asked (3 tasks), but there are 2; ask for fewer",
    )


def test_the_official_archive_is_held_out_from_and_says_so(tmp_path: Path) -> None:
    made = stream(write_official(tmp_path))
    # RandomState(0).permutation(3) = [2, 1, 0] over African_chameleon, jack-o'-lantern, jeep.
    assert [task.name for task in made.tasks] == ["jeep", "jack-o'-lantern", "African_chameleon"]
    assert [(len(task.train), len(task.test)) for task in made.tasks] == [(2, 1)] * 3  # one fifth of 5
    assert (check_stream(made), made.notes) == ([], (HELD_OUT,))
    keys = {e.key for task in stream(tmp_path, shots=None).tasks for e in (*task.train, *task.test)}
    assert "n03590841/0.9_newt _ newt_0.9.jpeg" in keys
    assert "n03590841/0.000003_yellow lady's slipper _ newt_0.9.jpg" in keys
    for path in sorted((tmp_path / "n03594945").iterdir())[:2]:
        path.unlink()  # 3 images are left: 1 held out, 2 to train on
    assert stream(tmp_path, shots=4).notes == (HELD_OUT, "1 classes have fewer than 4 training examples: jeep 2")
    write_lines(tmp_path / "README.txt", ["n01498041 stingray", "n01443537 goldfish", *WNIDS])
    assert problems_of(lambda: stream(tmp_path)) == (
        "README.txt: n01443537 is none of the 200 classes",
        "no items of 1 of the 4 classes: stingray",
    )


@pytest.mark.parametrize(
    "folders",
    [WNIDS, {wnid: wnid for wnid in WNIDS}, {wnid: name.replace("_", " ").lower() for wnid, name in WNIDS.items()}],
    ids=["names", "wnids", "other spelling"],
)
def test_the_class_incremental_release_keeps_its_splits_however_its_folders_are_named(
    tmp_path: Path, folders: dict[str, str]
) -> None:
    made = stream(write_release(tmp_path, folders))
    assert [task.name for task in made.tasks] == ["jeep", "jack-o'-lantern", "African_chameleon"]
    assert [(len(task.train), len(task.test)) for task in made.tasks] == [(2, 2)] * 3
    assert all(e.key.startswith("train/") for task in made.tasks for e in task.train)
    assert made.notes == ()
    for path in (tmp_path / "test" / folders["n03594945"]).iterdir():
        path.unlink()
    assert problems_of(lambda: stream(tmp_path))[0] == "no test items of 1 of the 3 classes: jeep"


def test_imagenet_r_has_names_of_its_own(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{wnid}/{i}.jpg" for wnid in ("n02814860", "n01677366") for i in range(3)])
    made = built("imagenet_r_cil", tmp_path, tasks=2, classes_per_task=1, shots=1)
    assert made.labels == ("iguana", "lighthouse")


def test_a_root_of_something_else_and_half_of_a_release_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ["pets/cat/0.jpg", "pets/dog/0.jpg", "one/train/jeep/0.jpg"])
    assert problems_of(lambda: stream(tmp_path / "pets"))[0].startswith("folder 'cat' is none of the 200 classes")
    told = "found train/ alone; expected both train/ and test/, or neither"
    assert told in problems_of(lambda: stream(tmp_path / "one"))[0]
