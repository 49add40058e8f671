import os
from pathlib import Path

import pytest

from task_streams.errors import UserError
from task_streams.sources.layout import below, existing_root, lines, subfolders
from tests.task_streams.image_trees import problems_of
from tests.task_streams.streams import built


def test_a_root_may_start_at_home_and_be_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "ant").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert existing_root("~/link", "<class>/<image>") == (tmp_path / "data").resolve()


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


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "out/x", "out"])
def test_paths_that_leave_the_root_are_refused(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(UserError, match=f"{path}: leads out of .*; refused"):
        below(root, path)


def test_paths_inside_are_given_whether_they_exist_or_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert below(tmp_path, "a/b c.jpg") == tmp_path / "a" / "b c.jpg"
    assert below(tmp_path, "link/x") == tmp_path / "link" / "x"


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


def test_a_missing_root_says_what_is_expected_and_where_to_get_it(tmp_path: Path) -> None:
    root = tmp_path / "none"
    for name, (layout, page) in ROOTS.items():
        (problem,) = problems_of(lambda name=name: built(name, root))
        assert problem.startswith(f"root '{root}': expected a folder with ") and layout in problem
        assert "; found nothing there" in problem and page in problem and ("Where to get it: " in problem) == bool(page)
