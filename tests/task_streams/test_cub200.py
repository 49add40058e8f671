from functools import partial
from pathlib import Path

from task_streams.scenarios.fingerprint import check_stream
from tests.shared_data import shared
from tests.task_streams.image_trees import add_lines, problems_of, write_image, write_images, write_lines
from tests.task_streams.streams import built

FOLDERS = {"1": "001.Black_footed_Albatross", "4": "004.Groove_billed_Ani", "22": "022.Chuck_will_Widow"}
FILES = {"1": "Black_Footed_Albatross", "4": "Groove_Billed_Ani", "22": "Chuck_Will_Widow"}


def write_archive(root: Path) -> Path:
    """Three classes with ids 1, 4 and 22; images with ids 10, 20, …; two of three are for training."""
    paths = [(c, f"{FOLDERS[c]}/{FILES[c]}_{i:04d}_{i * 7}.jpg", i < 3) for c in FOLDERS for i in range(1, 5)]
    rows = {str(10 * n): row for n, row in enumerate(paths, start=1)}
    write_images(root / "images", [path for _, path, _ in rows.values()])
    write_lines(root / "images.txt", [f"{n} {path}" for n, (_, path, _) in rows.items()])
    write_lines(root / "image_class_labels.txt", [f"{n} {c}" for n, (c, _, _) in rows.items()])
    write_lines(root / "train_test_split.txt", [f"{n} {int(train)}" for n, (_, _, train) in rows.items()])
    write_lines(root / "classes.txt", [f"{c} {name}" for c, name in FOLDERS.items()])
    return root


stream = partial(built, "cub200_cil", tasks=3, classes_per_task=1, shots=2)


def test_the_original_archive_with_gaps_in_its_ids_becomes_a_stream(tmp_path: Path) -> None:
    made = stream(write_archive(tmp_path))
    # RandomState(0).permutation(3) = [2, 1, 0] over Black…, Chuck…, Groove…
    assert [task.name for task in made.tasks] == ["Groove_billed_Ani", "Chuck_will_Widow", "Black_footed_Albatross"]
    assert sorted(e.key for e in made.tasks[0].test) == [
        "images/004.Groove_billed_Ani/Groove_Billed_Ani_0003_21.jpg",
        "images/004.Groove_billed_Ani/Groove_Billed_Ani_0004_28.jpg",
    ]
    assert [len(task.train) for task in made.tasks] == [2, 2, 2]
    assert (check_stream(made), made.notes) == ([], ())


def test_the_real_sample_has_12_classes_of_3_and_2_images_short_of_5_shots() -> None:
    made = stream(shared("cub100") / "CUB_200_2011", 1993, tasks=3, classes_per_task=4, shots=5)
    assert [(len(task.train), len(task.test)) for task in made.tasks] == [(12, 8)] * 3
    assert made.notes[0].startswith("12 classes have fewer than 5 training examples: Black_footed_Albatross 3, ")
    assert check_stream(made) == []


def test_every_id_that_one_list_has_and_another_has_not_is_reported_at_once(tmp_path: Path) -> None:
    root = write_archive(tmp_path)
    write_image(root / "images/001.Black_footed_Albatross/x.jpg")
    add_lines(root / "images.txt", "500 001.Black_footed_Albatross/x.jpg", "10 001.Black_footed_Albatross/x.jpg", "510")
    add_lines(root / "image_class_labels.txt", "600 1", "20 9")
    add_lines(root / "train_test_split.txt", "700 1", "30 2")
    add_lines(root / "classes.txt", "5 Crested_Auklet")
    found = problems_of(lambda: stream(root))
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


def test_paths_that_climb_out_or_are_missing_and_classes_of_one_name_or_without_images_are_named(
    tmp_path: Path,
) -> None:
    root = write_archive(tmp_path / "root")
    write_image(tmp_path / "outside.jpg")
    add_lines(root / "images.txt", "500 ../../outside.jpg", "510 001.Black_footed_Albatross/none.jpg")
    add_lines(root / "image_class_labels.txt", "500 1", "510 1")
    add_lines(root / "train_test_split.txt", "500 1", "510 0")
    add_lines(root / "classes.txt", "30 030.Chuck_will_Widow", "31 031.Fish_Crow")
    assert problems_of(lambda: stream(root)) == (
        "classes 22, 30 are all named 'Chuck_will_Widow'; expected a name of its own for each",
        f"images.txt: images/../../outside.jpg: leads out of {root}; refused",
        "images.txt: 1 files that it names are missing: images/001.Black_footed_Albatross/none.jpg",
        "no training items of 1 of the 4 classes: Fish_Crow",
        "no test items of 1 of the 4 classes: Fish_Crow",
    )
