"""What a command leaves in a folder: whole files, links not followed, the same bytes for the same picture."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from clrft.analysis.outputs import ENDINGS, write_outputs


def picture() -> Figure:
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([0, 1], [1, 3])
    return figure


def test_files_come_in_order_and_replace_links_instead_of_following_them(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("somebody's", encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("table.md", "curves.png", "curves.pdf"):
        (out / name).symlink_to(other)
    paths = write_outputs(out, {"table.md": "| a |\n"}, [("curves", picture())], ENDINGS)
    assert [path.name for path in paths] == ["table.md", "curves.png", "curves.pdf"]
    assert other.read_text(encoding="utf-8") == "somebody's"
    assert [path.read_bytes()[:4] for path in paths] == [b"| a ", b"\x89PNG", b"%PDF"]
    assert sorted(path.name for path in out.iterdir()) == ["curves.pdf", "curves.png", "table.md"]


def test_the_same_picture_is_the_same_file(tmp_path: Path) -> None:
    first, second = (
        [path.read_bytes() for path in write_outputs(tmp_path / name, {}, [("curves", picture())], ENDINGS)]
        for name in "ab"
    )
    assert first == second and b"CreationDate" not in first[1]


def test_a_picture_that_fails_leaves_the_older_one(tmp_path: Path) -> None:
    (path,) = write_outputs(tmp_path, {}, [("curves", picture())])
    before = path.read_bytes()

    class Broken(Figure):
        def savefig(self, file: Path, **_: object) -> None:
            file.write_bytes(b"half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_outputs(tmp_path, {}, [("curves", Broken())])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
