"""Folders below a root, and streams of image folders."""

import os
import socket
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eval.score import score
from task_streams.errors import UserError
from task_streams.prompt import request
from task_streams.scenarios.fingerprint import check_stream, fingerprints
from task_streams.sources.layout import LINKS_REMEDY, below, existing_root, lines, subfolders
from task_streams.sources.records import Damaged, FileSource
from task_streams.types import TaskStream
from tests.task_streams.streams import built, cut, problems_of, sizes, write_tree


def test_what_stands_where_a_root_is_expected_is_told(tmp_path: Path) -> None:
    def complaint(name: str, *needs: str) -> str:
        (problem,) = problems_of(lambda: existing_root(str(tmp_path / name), "x/", "example.org", needs))
        return problem.removeprefix(f"root '{tmp_path / name}': expected a folder with x/; found ")

    assert complaint("none/data") == "nothing there. Where to get it: example.org"
    (tmp_path / "data.zip").touch()
    assert complaint("data") == "nothing there, and still packed beside it: data.zip. Where to get it: example.org"
    assert complaint("data.zip") == (
        "a packed archive; give the folder that it unpacks to. Where to get it: example.org"
    )
    (tmp_path / "data").mkdir()
    assert complaint("data") == "an empty folder. Where to get it: example.org"
    (tmp_path / "data" / "a.txt").touch()
    assert complaint("data") == "a.txt. Where to get it: example.org"
    assert complaint("data", "a.txt", "b") == "a.txt (missing: b). Where to get it: example.org"
    assert complaint("data/a.txt") == "a file there. Where to get it: example.org"
    (tmp_path / "data" / "inner").mkdir()
    (tmp_path / "data" / "inner" / "b").touch()
    hint = f"a.txt, inner; all of it is in {tmp_path}/data/inner: set root to that. Where to get it: example.org"
    assert complaint("data", "b") == hint


ROOTS = {
    "folder_cil": ("<class>/<image> or {train,test}/<class>/<image>", ""),
    "folder_dil": ("<domain>/<class>/<image> or <domain>/{train,test}/<class>/<image>", ""),
    "tinyimagenet_cil": ("wnids.txt, words.txt, train/<wnid>", "http://cs231n.stanford.edu/tiny-imagenet-200.zip"),
    "cub200_cil": ("images/<NNN.Class_name>/*.jpg", "https://www.vision.caltech.edu/datasets/cub_200_2011"),
    "imagenet_r_cil": ("<wnid>/<image> (official archive)", "https://github.com/hendrycks/imagenet-r"),
    "imagenet_a_cil": ("<wnid>/<image> (official archive)", "https://github.com/hendrycks/natural-adv-examples"),
    "officehome_dil": ("Art, Clipart, Product and Real World", "https://www.hemanthdv.org/"),
    "domainnet_dil": ("<domain>_train.txt and <domain>_test.txt", "https://ai.bu.edu/M3SDA"),
    "pacs_dil": ("domains art_painting, cartoon, photo and sketch", "https://dali-dl.github.io"),
    "coco_cil": ("instances_{train2017,val2017}.json", "https://cocodataset.org"),
    "voc_cil": ("ImageSets/Main/<set>.txt", "host.robots.ox.ac.uk/pascal/VOC"),
    "voc_dil": ("ImageSets/Main/<set>.txt", "host.robots.ox.ac.uk/pascal/VOC"),
    "ucf101_cil": ("UCF-101/<Class>/*.avi and ucfTrainTestlist/*.txt", "https://www.crcv.ucf.edu/data/UCF101.php"),
    "kinetics200_cil": ("{train,val}.csv and clips", "https://github.com/cvdfoundation/kinetics"),
    "clips_cil": ("<class>/<clip> or {train,test}/<class>/<clip>", ""),
    "cifar100_cil": ("train.bin, test.bin, fine_label_names.txt", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "cifar10_cil": ("data_batch_5.bin, test_batch.bin", "https://www.cs.toronto.edu/~kriz/cifar.html"),
}


def test_paths_inside_of_the_root_are_given_whether_they_exist_or_not_and_others_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert below(tmp_path, "a/b c.jpg") == tmp_path / "a" / "b c.jpg"
    assert below(tmp_path, "link/x") == tmp_path / "link" / "x"
    (tmp_path / "a" / "out").symlink_to(tmp_path)
    for path in ("../x", "a/../../x", "/etc/passwd", "out/x", "out"):
        with pytest.raises(UserError, match=f"{path}: leads out of .*; refused"):
            below(tmp_path / "a", path)


def test_links_in_a_circle_are_no_folders_and_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert [entry.name for entry in subfolders(tmp_path)] == ["ant"]
    assert below(tmp_path, "circle/x") == tmp_path / "circle" / "x"
    (tmp_path / "Käfer").mkdir()
    assert [entry.name for entry in subfolders(tmp_path)] == ["Käfer", "ant"]
    os.mkdir(os.fsencode(tmp_path) + b"/K\xe4fer")
    with pytest.raises(UserError, match=r"expected names in UTF-8; found 'K\\udce4fer'; rename them"):
        subfolders(tmp_path)


def test_lines_have_numbers_and_no_ends_whatever_the_platform(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("\ufeffa 1\r\n\r\n  b\u2028c\n".encode())
    # A separator of lines that is no line end on disk stays inside of its line.
    assert lines(tmp_path / "list.txt") == [(1, "a 1"), (3, "b\u2028c")]
    with pytest.raises(UserError, match="expected a readable text file"):
        lines(tmp_path)


def test_a_root_may_be_a_link_at_home_and_is_told_where_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "ant").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert existing_root("~/link", "<class>/<image>") == (tmp_path / "data").resolve()
    root = tmp_path / "none"
    for name, (layout, page) in ROOTS.items():
        (problem,) = problems_of(lambda name=name: built(name, root))
        assert problem.startswith(f"root '{root}': expected a folder with ") and layout in problem
        assert "; found nothing there" in problem and page in problem and ("Where to get it: " in problem) == bool(page)


CLASSES = ("ant", "bee", "cat fish", "d'og")


cil = partial(built, "folder_cil", tasks=2, classes_per_task=2, shots=3, test_per_class=2)
dil = partial(built, "folder_dil")


def used(stream: TaskStream) -> set[str]:
    return {e.key for task in stream.tasks for e in (*task.train, *task.test)}


def test_class_folders_become_a_stream_with_a_hold_out_or_the_splits_of_the_tree(tmp_path: Path) -> None:
    for place in ("one", "two"):
        write_tree(tmp_path / place, CLASSES, 6)
    stream = cil(tmp_path / "one")
    assert sorted(label for task in stream.tasks for label in task.classes) == sorted(CLASSES)
    assert sizes(stream) == [(6, 4), (6, 4)]
    assert stream.tasks[0].train[0].key.startswith(f"{stream.tasks[0].classes[0]}/")
    assert stream.tasks[0].train[0].media().size == (8, 8)
    assert fingerprints(stream) == fingerprints(cil(tmp_path / "two"))  # wherever it lies
    write_tree(tmp_path / "splits", [f"{split}/{name}" for split in ("train", "test") for name in CLASSES], 4, ".JPG")
    for task in cil(tmp_path / "splits").tasks:
        assert all(example.key.startswith("train/") for example in task.train)
        assert all(example.key.startswith("test/") for example in task.test)


def test_a_tree_of_domains_becomes_a_domain_stream(tmp_path: Path) -> None:
    write_tree(tmp_path, [f"{domain}/{name}" for domain in ("art", "photo") for name in CLASSES], 5)
    stream = dil(tmp_path, domains=("photo", "art"), domain_order="given", shots=2, test_per_class=1)
    assert [task.name for task in stream.tasks] == ["photo", "art"]
    assert all(task.seen == tuple(sorted(CLASSES)) for task in stream.tasks)
    assert {e.domain for e in stream.tasks[0].train} == {"photo"}
    assert check_stream(stream) == []
    assert problems_of(lambda: dil(tmp_path, domains=("foto",))) == (
        "unknown domain 'foto'. Did you mean 'photo'? Known: art, photo.",
    )


def test_every_damaged_image_is_named_at_once(tmp_path: Path) -> None:
    write_tree(tmp_path, CLASSES, 6)
    cut(tmp_path / "ant" / "001.png")
    (tmp_path / "bee" / "002.png").write_bytes(b"")
    (tmp_path / "bee" / "003.png").write_bytes(b"<html>404</html>")
    head, *named = problems_of(lambda: cil(tmp_path))
    assert head == "3 items cannot be decoded; repair or remove them, or set on_damaged=skip"
    assert [problem.split(" ")[0] for problem in named] == ["ant/001.png", "bee/002.png", "bee/003.png"]


def test_links_are_followed_inside_of_the_root_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_tree(root, (*CLASSES, ".store/eel"), 6)
    (root / "eel").symlink_to(root / ".store" / "eel", target_is_directory=True)
    assert {key.split("/")[0] for key in used(cil(root, tasks=5, classes_per_task=1))} == {*CLASSES, "eel"}
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    (root / "ant" / "link.png").symlink_to(tmp_path / "outside.png")
    (problem,) = problems_of(lambda: cil(root))
    assert problem == f"{root}/ant/link.png: a link that leads out of {root}; refused{LINKS_REMEDY}"


@pytest.mark.parametrize(
    ("folders", "settings", "said"),
    [
        (("ice_bear", "Ice-Bear", "ant"), {"tasks": 1}, "classes 'Ice-Bear', 'ice_bear' all read 'ice bear'"),
        (("ant/deeper",), {}, "found ant, and no image in there"),
        (("train/ant",), {}, "found train/ alone; expected both train/ and test/, or neither"),
        (("ant",), {"on_damaged": "ignore"}, "on_damaged: got 'ignore', expected error or skip."),
    ],
)
def test_what_is_wrong_with_a_tree_or_its_settings_is_said(
    tmp_path: Path, folders: tuple[str, ...], settings: dict[str, Any], said: str
) -> None:
    write_tree(tmp_path, folders, 4)
    assert said in problems_of(lambda: cil(tmp_path, **settings))[0]


def test_other_files_are_counted_hidden_ones_and_folders_without_images_passed_over(tmp_path: Path) -> None:
    write_tree(tmp_path, CLASSES, 6)
    (tmp_path / "ant" / "labels.csv").write_text("x")
    (tmp_path / "ant" / "._000.png").write_text("x")
    (tmp_path / "docs").mkdir()
    stream = cil(tmp_path)
    assert set(stream.labels) == set(CLASSES)
    assert stream.notes == (
        "ant: 1 entries that are no images passed over",
        "root: folders without images left out: docs",
    )


def test_a_copy_in_two_domains_is_reported_or_left_out(tmp_path: Path) -> None:
    write_tree(tmp_path, [f"{domain}/{name}" for domain in ("art", "photo") for name in CLASSES], 6)
    (tmp_path / "photo/ant/001.png").write_bytes((tmp_path / "art/ant/003.png").read_bytes())
    (problem,) = check_stream(dil(tmp_path, shots=None, test_per_class=2))
    assert "art/ant/003.png" in problem and "photo/ant/001.png" in problem
    kept = []
    for order_seed in (0, 1):  # RandomState(0).permutation(2) is [1 0], RandomState(1).permutation(2) is [0 1]
        stream = dil(tmp_path, order_seed, shots=None, test_per_class=2, on_copies="skip")
        assert check_stream(stream) == []
        (note,) = (note for note in stream.notes if "left out" in note)
        assert "1 items left out, copies of others: " in note
        kept.append(used(stream))
        assert len(kept[-1]) == 47  # 2 domains of 4 classes of 6 images, one of them a copy
    assert kept[0] == kept[1]


def test_listed_items_of_classes_that_are_not_used_are_counted(tmp_path: Path) -> None:
    listed = tmp_path / "list.jsonl"
    write_tree(tmp_path / "plain", CLASSES, 3)
    listed.write_text("".join(f'{{"key": "{name}/000.png"}}\n' for name in CLASSES))
    changes: dict[str, Any] = {"classes_per_task": 1, "shots_list": str(listed)}
    told = "1 of 4 listed items are of classes that are not used"
    assert told in cil(tmp_path / "plain", tasks=3, **changes).notes
    assert not [note for note in cil(tmp_path / "plain", tasks=4, **changes).notes if "listed" in note]


MAC, LINUX = "Cafe\u0301", "Café"  # one name: the accent behind its letter, as a Mac unpacks it, and within


def test_names_are_shown_with_their_accents_within_letters_and_two_that_differ_in_that_alone_are_refused(
    tmp_path: Path,
) -> None:
    write_tree(tmp_path, [f"{domain}/{name}" for domain in (f"{MAC} Noir", "day") for name in (MAC, "tern")], 8)
    domain = built("folder_dil", tmp_path, domains=(f"{LINUX} Noir", "day"), domain_order="given", shots=2)
    assert [task.name for task in domain.tasks] == [f"{LINUX} Noir", "day"]
    stream = built("folder_cil", tmp_path / "day", tasks=1, classes_per_task=2, shots=2)
    assert stream.labels == (LINUX, "tern") or stream.labels == ("tern", LINUX)
    (asked,) = (request(item, stream.tasks[0].seen) for item in stream.tasks[0].test[:1])
    assert f": {LINUX}, tern" in asked.messages[0]["content"][-1]["text"]
    item = next(item for item in stream.tasks[0].train if item.label == LINUX)
    assert f"/{MAC}/" in f"/{item.key}"  # the path is as it is on the disk
    assert score(f"<think>t</think><answer>{MAC.upper()}</answer>", item.target, stream.labels).reward == 2.0
    write_tree(tmp_path / "day", [LINUX], 8)
    told = f"classes {MAC!r}, {LINUX!r} all read 'café' in an answer; rename all but one of them"
    assert told in problems_of(lambda: built("folder_cil", tmp_path / "day", tasks=1, classes_per_task=1, shots=2))


def test_classes_may_go_by_other_names_and_keys_and_lists_keep_those_on_disk(tmp_path: Path) -> None:
    write_tree(tmp_path / "data", ["0", "1", "2"], 6)
    one_task = partial(built, "folder_cil", tmp_path / "data", tasks=1, classes_per_task=3, shots=2, test_per_class=2)
    names = {"0": " zero ", "1": "2", "2": "1"}  # two of them in exchange
    stream = one_task(class_names=names)
    assert sorted(stream.labels) == ["1", "2", "zero"]
    folders = {"zero": "0", "2": "1", "1": "2"}
    assert all(example.key.split("/")[0] == folders[example.label] for example in stream.tasks[0].train)
    (tmp_path / "shots.jsonl").write_text("".join(f'{{"class_name": "{n}", "file_name": "000.png"}}\n' for n in "012"))
    listed = one_task(class_names=names, shots_list=str(tmp_path / "shots.jsonl"), test_per_class=None)
    assert sorted((one.key, one.label) for one in listed.tasks[0].train) == [
        ("0/000.png", "zero"), ("1/000.png", "2"), ("2/000.png", "1")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ({"00": "a", "1": "b"}, "class_names: unknown class '00'. Did you mean '0'? Known: 0, 1, 2."),
        ({"0": "a", "1": "a"}, "class_names: classes 0, 1 are all named 'a'; expected a name of its own for each"),
        ({"0": "2"}, "class_names: classes 0, 2 are all named '2'; expected a name of its own for each"),
        ({"0": "B", "1": "b"}, "classes 'B', 'b' all read 'b' in an answer; rename all but one of them"),
        ({"0": " "}, "class name '' has no letters or digits left to answer with"),
    ],
)
def test_new_names_that_name_no_class_or_merge_two_are_refused(
    names: dict[str, str], problem: str, tmp_path: Path
) -> None:
    write_tree(tmp_path, ["0", "1", "2"], 6)
    settings: dict[str, Any] = {"tasks": 1, "classes_per_task": 3, "shots": 2, "test_per_class": 2}
    assert problems_of(lambda: built("folder_cil", tmp_path, class_names=names, **settings)) == (problem,)


def test_a_locale_that_reads_other_letters_is_blamed_and_not_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path, ["a", LINUX], 6)
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "iso8859-1")
    (told,) = problems_of(lambda: built("folder_cil", tmp_path, tasks=1, classes_per_task=2, shots=2))
    assert told.endswith("1 names have letters that this locale reads as iso8859-1, not as UTF-8; set PYTHONUTF8=1 or "
                         "LC_ALL=C.UTF-8 for the command")  # fmt: skip


def test_what_is_no_regular_file_is_named_and_never_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**34)
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        monkeypatch.chdir(tmp_path)  # a path of a socket is short
        listener.bind("socket")
        for name, said in (
            ("pipe", "a pipe; expected a regular file"),
            ("socket", "a socket; expected a regular file"),
            ("folder", "Is a directory"),
            ("sparse", "a sparse file of 17179869184 bytes, of which 0 are on the disk; expected a whole file"),
        ):
            with pytest.raises(Damaged) as caught:
                FileSource(tmp_path / name).read()
            assert str(caught.value) == said
            with pytest.raises(UserError, match=said.split(";")[0]):
                lines(tmp_path / name)
    (tmp_path / "list.txt").write_bytes("a\r\nb\n".encode("utf-16"))
    with pytest.raises(UserError, match="it is in UTF-16 or UTF-32; save it as UTF-8"):
        lines(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa\r\n\rb")
    assert lines(tmp_path / "list.txt") == [(1, "a"), (3, "b")]
