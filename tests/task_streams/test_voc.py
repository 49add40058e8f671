from functools import partial
from pathlib import Path
from typing import Any

import pytest

from task_streams.datasets.voc import CLASSES, VocCilConfig, parse_xml, read_sets
from task_streams.errors import UserError
from task_streams.scenarios.fingerprint import check_stream, fingerprints
from task_streams.sources.records import Damaged, Workspace
from task_streams.types import Box, TaskStream
from tests.shared_data import shared
from tests.task_streams.detection_trees import voc_xml, whole, write_voc
from tests.task_streams.streams import built, problems_of, sizes

EVERY = ("bird", "cat", "dog", "sheep")
TRAIN = {f"00000{i}": whole(name) for i, name in enumerate(EVERY)}
TEST = {f"00001{i}": whole(name) for i, name in enumerate(EVERY)}


cil = partial(
    built, "voc_cil", tasks=2, classes_per_task=2, classes=EVERY, train=("VOC2007/trainval",), test=("VOC2007/test",)
)


def dil(root: Path, *domains: str, **changes: Any) -> TaskStream:
    settings: dict[str, Any] = {"classes": EVERY, "test_set": "test", "train_set": "trainval"} | changes
    return built("voc_dil", root, domains=domains, **settings)


def write(root: Path) -> Path:
    write_voc(root / "VOC2007", {"trainval": TRAIN, "test": TEST})
    return root / "VOC2007"


def target(root: Path, name: str, **changes: Any) -> tuple[Box, ...]:
    config = VocCilConfig(root=str(root), classes=EVERY, **changes)
    table = read_sets(root, ["VOC2007/trainval"], config, Workspace())
    image = table.keys.index(f"VOC2007/JPEGImages/{name}.png")
    return table.record(image, EVERY, "train").target  # type: ignore[return-value]


def test_corners_count_from_one_and_include_the_last_pixel(tmp_path: Path) -> None:
    # xmin 21, ymin 11, xmax 60, ymax 30 of 200 x 100: pixels 20..60 and 10..30 -> thousandths 100..300
    folder = write(tmp_path)
    assert target(tmp_path, "000002") == (Box("dog", (100, 100, 300, 300)),)
    (folder / "Annotations" / "000002.xml").write_text(voc_xml([("dog", 0, 0, 200, 100), ("cat", 0.5, 0, 99.5, 50)]))
    assert target(tmp_path, "000002") == (Box("dog", (0, 0, 1000, 1000)), Box("cat", (2, 0, 500, 500)))


def test_sets_become_tasks_with_or_without_the_folder_that_holds_them(tmp_path: Path) -> None:
    write(tmp_path / "VOCdevkit")
    found = cil(tmp_path)
    assert fingerprints(found) == fingerprints(cil(tmp_path / "VOCdevkit"))
    # sorted bird, cat, dog, sheep; RandomState(0).permutation(4) = [2, 3, 1, 0]
    assert [task.classes for task in found.tasks] == [("dog", "sheep"), ("cat", "bird")]
    assert [e.key for e in found.tasks[0].train] == [f"VOC2007/JPEGImages/00000{i}.png" for i in (2, 3)]
    assert [e.key for e in found.tasks[0].test] == [f"VOC2007/JPEGImages/00001{i}.png" for i in (2, 3)]
    assert check_stream(found) == []
    assert len(CLASSES) == 20 and tuple(sorted(CLASSES)) == CLASSES


def test_domains_become_tasks_with_all_classes(tmp_path: Path) -> None:
    for number, name in enumerate(("photo", "clipart1k")):
        write_voc(tmp_path / name, {"trainval": TRAIN, "test": TEST}, first=100 * number)
    found = dil(tmp_path, "photo=photo", "clipart=clipart1k", domain_order="given")
    parts = [(task.name, task.classes, task.seen) for task in found.tasks]
    assert parts == [("photo", EVERY, EVERY), ("clipart", EVERY, EVERY)]
    assert {(e.domain, e.key.split("/")[0]) for e in found.tasks[1].train} == {("clipart", "clipart1k")}
    assert sizes(found) == [(4, 4), (4, 4)]
    # RandomState(0).permutation(2) = [1, 0] over clipart, photo
    assert [task.name for task in dil(tmp_path, "photo=photo", "clipart=clipart1k").tasks] == ["photo", "clipart"]


def test_settings_of_domains_and_sets_are_checked_at_once(tmp_path: Path) -> None:
    assert problems_of(
        lambda: dil(tmp_path, "photo", "a=../b", "c=/d", "photo=e", other_classes="ignore", classes=("dog", "dog"))
    ) == (
        "other_classes: got 'ignore', expected error or skip.",
        "class 'dog' is listed more than once",
        "domains: 'photo'; expected name=folder, the folder below root",
        "domains: 'a=../b'; expected name=folder, the folder below root",
        "domains: 'c=/d'; expected name=folder, the folder below root",
        "domain 'photo' is listed more than once",
    )
    assert problems_of(lambda: cil(tmp_path, train=("VOC2007", "../a/b"), test=())) == (
        "train: 'VOC2007'; expected <folder>/<image set>, e.g. VOC2007/trainval",
        "train: '../a/b'; expected <folder>/<image set>, e.g. VOC2007/trainval",
        "test is empty; expected one or more of <folder>/<image set>",
    )
    write(tmp_path)
    with pytest.raises(UserError, match="voc_dil: no domains; expected at least one"):
        dil(tmp_path)


def test_every_fault_of_the_annotations_is_named_at_once(tmp_path: Path) -> None:
    folder = write(tmp_path)
    names = {
        "20": "<annotation><object>",
        "21": "<html/>",
        "22": voc_xml(whole("dog")).replace("<width>200", "<width>0"),
        "23": voc_xml(whole("dog")).replace("<xmin>21</xmin>", ""),
        "24": voc_xml(whole("dog")).replace("<ymax>30", "<ymax>nan"),
        "25": "",
        "26": voc_xml(whole("dog")),
        "30": '<?xml version="1.0" encoding="klingon"?><annotation/>',
        "31": '<?xml version="1.0" encoding="gb2312"?><annotation/>',
        "32": voc_xml(whole("dog")).replace("<width>200", "<width>1e-320"),
    }
    for name, text in names.items():
        (folder / "Annotations" / f"{name}.xml").write_text(text)
        (folder / "JPEGImages" / f"{name}.png").write_bytes(b"")
    (folder / "JPEGImages" / "26.png").unlink()
    (folder / "JPEGImages" / "27.png").write_bytes(b"")
    listed = folder / "ImageSets" / "Main" / "trainval.txt"
    listed.write_text(listed.read_text() + "".join(f"{name}\n" for name in [*names, "27", "000001", "../28"]))
    assert [problem.removeprefix("VOC2007/trainval: ") for problem in problems_of(lambda: cil(tmp_path))] == [
        "7 annotations that cannot be read: VOC2007/20.xml (no element found: line 1, column 20), "
        "VOC2007/21.xml (expected <annotation>, found <html>), "
        "VOC2007/22.xml (no size with width and height above 0), "
        "VOC2007/25.xml (no element found: line 1, column 0), "
        "VOC2007/30.xml (unknown encoding: klingon) and 2 more",
        "2 objects without the four numbers of a bndbox: VOC2007/23, object 1, VOC2007/24, object 1",
        "2 listed images that are missing in JPEGImages: VOC2007/26, VOC2007/../28",
        "1 listed images without a file in Annotations: VOC2007/27",
        "1 images that are listed twice: VOC2007/000001",
    ]


def test_a_link_that_leads_out_of_the_root_and_a_document_type_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "root")
    outside = tmp_path / "outside.xml"
    (folder / "Annotations" / "000001.xml").rename(outside)
    (folder / "Annotations" / "000001.xml").symlink_to(outside)
    (told, *_) = problems_of(lambda: cil(tmp_path / "root"))
    assert told.endswith(f"a link that leads out of {tmp_path / 'root'}; refused (set links=anywhere to follow links)")
    bomb = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c SYSTEM "file:///etc/passwd">]><annotation>&b;&c;</annotation>'
    for encoding in ("utf-8", "utf-16"):
        outside.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{bomb}'.encode(encoding))
        with pytest.raises(Damaged, match="a document type; refused"):
            parse_xml(outside)


def test_what_was_parsed_is_kept_until_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, kept = write(tmp_path / "root"), Workspace(tmp_path / "cache")
    first = cil(tmp_path / "root", workspace=kept)
    with monkeypatch.context() as patch:
        patch.setattr("task_streams.datasets.voc.parse_xml", lambda path: pytest.fail(f"{path} is parsed again"))
        assert fingerprints(cil(tmp_path / "root", workspace=kept)) == fingerprints(first)
    (folder / "Annotations" / "000002.xml").write_text(voc_xml(whole("dog"), difficult=True))
    changed = cil(tmp_path / "root", workspace=kept, allow_empty_classes=True)
    again = cil(tmp_path / "root", workspace=kept, difficult=True)
    assert [len(found.tasks[0].train) for found in (first, changed, again)] == [2, 1, 2]


def test_the_real_sample_of_voc_with_new_classes_or_its_years_as_domains() -> None:
    root = shared("voc_mini")
    sets: dict[str, Any] = {f"{s}": (f"VOC2007/{s}", f"VOC2012/{s}") for s in ("train", "test")}
    settings = {"classes": CLASSES, "classes_per_task": 10, "allow_empty_classes": True, **sets}
    found = cil(root, 2, **settings)
    assert check_stream(found) == []
    assert sum(len(task.train) for task in found.tasks) == 4 and sum(len(task.test) for task in found.tasks) == 4
    boxes = {e.key: e.target for task in found.tasks for e in (*task.train, *task.test)}
    # 000005.xml: five chairs, two of them difficult; the first at 263, 211, 324, 339 of 500 x 375
    # 262 / 500, 210 / 375, 324 / 500, 339 / 375
    chairs = boxes["VOC2007/JPEGImages/000005.jpg"]
    assert len(chairs) == 3 and chairs[0] == Box("chair", (524, 560, 648, 904))
    assert any(note.endswith("2 boxes left out: marked difficult") for note in found.notes)
    years: dict[str, Any] = {"train_set": "train", "classes": CLASSES, "domain_order": "given"}
    domains = ("early=VOC2007", "late=VOC2012")
    lacking = problems_of(lambda: dil(root, *domains, **years))
    assert lacking[0].startswith("task early: no training images with 1")
    found = dil(root, *domains, allow_empty_classes=True, **years)
    assert lacking[0] in found.notes
    assert ([task.name for task in found.tasks], sizes(found)) == (["early", "late"], [(2, 2), (2, 2)])


def test_objects_that_are_difficult_or_of_other_classes_and_images_without_any_are_recorded(tmp_path: Path) -> None:
    folder = write(tmp_path) / "Annotations"
    (folder / "000001.xml").write_text(voc_xml([]))
    (folder / "000002.xml").write_text(voc_xml(whole("dog"), difficult=True))
    (folder / "000003.xml").write_text(voc_xml([*whole("sheeep"), *whole("sheep")]))
    assert problems_of(lambda: cil(tmp_path, allow_empty_classes=True)) == (
        "VOC2007/trainval: 1 objects of an unknown class 'sheeep'. Did you mean 'sheep'? Known: bird, cat, dog, sheep. "
        "Rename it, or set other_classes=skip. In: VOC2007/000003",
    )
    assert problems_of(lambda: cil(tmp_path, other_classes="skip"))[:2] == (
        "task dog+sheep: no training images with 1 classes: dog; boxes left out: dog: 1 marked difficult",
        "task cat+bird: no training images with 1 classes: cat",
    )
    notes = cil(tmp_path, other_classes="skip", allow_empty_classes=True).notes
    assert "VOC2007/trainval: 1 boxes left out: marked difficult" in notes
    assert "VOC2007/trainval: 1 boxes left out: of other classes" in notes
    told = "2 images without boxes left out: VOC2007/JPEGImages/000001.png, VOC2007/JPEGImages/000002.png"
    assert f"VOC2007/trainval: {told}" in notes
    kept = target(tmp_path, "000002", difficult=True, other_classes="skip")
    assert kept == (Box("dog", (100, 100, 300, 300)),)


def test_several_years_are_trained_on_together_and_sets_must_be_there_and_share_no_image(tmp_path: Path) -> None:
    folder = write(tmp_path)
    write_voc(tmp_path / "VOC2012", {"trainval": {"2008_000001": whole("dog")}}, first=500)
    found = cil(tmp_path, train=("VOC2007/trainval", "VOC2012/trainval"))
    assert "VOC2012/JPEGImages/2008_000001.png" in [e.key for e in found.tasks[0].train]
    for changes, said in (
        ({"test": ("VOC2007/tests",)}, "unknown image set 'tests'. Did you mean 'test'? Known: test, trainval."),
        ({"train": ("VOC2010/trainval",)}, "VOC2010: expected Annotations, JPEGImages, ImageSets/Main; missing"),
    ):
        (problem,) = problems_of(lambda changes=changes: cil(tmp_path, **changes))
        assert said in problem
    assert problem.endswith("found no such folder")
    (folder / "ImageSets" / "Main" / "test.txt").write_text("\n".join([*TEST, "000001"]))
    both = "1 images are in both VOC2007/trainval and VOC2007/test: VOC2007/JPEGImages/000001.png"
    assert both in problems_of(lambda: cil(tmp_path))


def test_marks_and_sizes_are_held_against_what_they_may_be_and_against_the_image(tmp_path: Path) -> None:
    folder = write(tmp_path) / "Annotations"
    marked = voc_xml(whole("dog"), difficult=True)
    (folder / "000001.xml").write_text(marked.replace("<difficult>1<", "<difficult>maybe<"))
    assert problems_of(lambda: cil(tmp_path, allow_empty_classes=True)) == (
        "VOC2007/trainval: 1 objects whose difficult is neither 0 nor 1: VOC2007/000001, object 1 ('maybe')",
    )
    (folder / "000001.xml").write_text(marked.replace("<difficult>1<", "<difficult> True <"))
    assert "VOC2007/trainval: 1 boxes left out: marked difficult" in cil(tmp_path, allow_empty_classes=True).notes
    (folder / "000001.xml").write_text(voc_xml(whole("dog")).replace("<width>200<", "<width>400<"))
    told = problems_of(lambda: cil(tmp_path, allow_empty_classes=True, shots=None))
    assert "VOC2007/JPEGImages/000001.png (declared as 400 x 100, but the image is 200 x 100)" in told
