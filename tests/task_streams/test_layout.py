import os
from pathlib import Path

import pytest

from task_streams.errors import UserError
from task_streams.sources.layout import below, existing_root, lines, subfolders
from tests.task_streams.image_trees import problems_of


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
