"""Archives: good ones become a folder, hostile and damaged ones leave nothing behind."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from clrft.cli.main import main
from clrft.utils import archives as module
from clrft.utils.archives import check_room, one_by_one, unpack
from clrft.utils.progress import Silent
from task_streams.errors import UserError

FILES = {"set/train/a.txt": b"a" * 10, "set/train/ü b.txt": b"b" * 3000, "set/empty.txt": b""}


def tar(path: Path, *members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    """A tar, compressed as its suffix says; ``kind`` and ``link`` are those of its last member."""
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as archive:
        for number, (name, data) in enumerate(members, start=1):
            info = tarfile.TarInfo(name)
            if number == len(members):
                info.type, info.linkname = kind, link
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return path


def zipped(path: Path, *members: tuple[str, bytes], mode: int = 0) -> Path:
    """A zip; ``mode`` is that of its last member."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (name, data) in enumerate(members, start=1):
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (mode if number == len(members) else 0) << 16
            archive.writestr(info, data)
    return path


def refusal(archive: Path) -> str:
    """What is said about an archive of which nothing may be unpacked."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        unpack(archive, archive.parent / "out" / "set", Silent())
    left = [path for path in sorted(archive.parent.rglob("*")) if path not in before]
    assert left in ([], [archive.parent / "out"])
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_archives_of_every_kind_become_a_folder(tmp_path: Path, suffix: str) -> None:
    write = zipped if suffix == "zip" else tar
    archive = write(tmp_path / f"data.{suffix}", *FILES.items())
    assert main(["data", "unpack", str(archive), str(tmp_path / "new" / "out")]) == 0
    out = tmp_path / "new" / "out"
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found == FILES
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["../evil.txt", "set/../../evil.txt", "/tmp/evil.txt", "..\\evil.txt", "C:\\evil.txt"])
def test_names_that_lead_out_are_refused_and_all_named(tmp_path: Path, name: str) -> None:
    members = (("good.txt", b"x"), (name, b"x"), ("../second.txt", b"x"))
    for archive in (tar(tmp_path / "a.tar.gz", *members), zipped(tmp_path / "a.zip", *members)):
        said = refusal(archive)
        assert "2 members are refused, nothing was unpacked" in said
        assert f"{name!r} (a" in said
        assert "'../second.txt' (a path that leads upwards)" in said
        archive.unlink()


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "zip"])
def test_a_cut_off_archive_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    write = zipped if suffix == "zip" else tar
    noise = bytes(i * i % 251 for i in range(60_000))
    archive = write(tmp_path / f"a.{suffix}", ("set/a", noise), ("set/b", noise))
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    said = refusal(archive)
    assert "damaged" in said or "cut off" in said


def test_a_member_whose_bytes_changed_is_noticed(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("set/a", b"0123456789")
    archive.write_bytes(archive.read_bytes().replace(b"0123456789", b"0123x56789"))
    assert "is damaged or cannot be unpacked (Bad CRC-32 for file 'set/a')" in refusal(archive)


def test_what_is_no_archive_or_not_there_is_named(tmp_path: Path) -> None:
    page = tmp_path / "page.tar.gz"
    page.write_bytes(b"<html>404</html>")
    assert "is neither a tar (plain, gz, bz2 or xz) nor a zip archive" in refusal(page)
    assert "can't read" in refusal(tmp_path / "none.zip")
    assert "an archive without members" in refusal(zipped(tmp_path / "empty.zip"))


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_members_of_a_tar_are_not_kept_while_it_is_gone_through(tmp_path: Path, suffix: str) -> None:
    archive = tar(tmp_path / f"data.{suffix}", *((f"set/{i}.txt", b"x" * i) for i in range(50)))
    with tarfile.open(archive) as opened:
        found = [(info.name, len(opened.members)) for info in one_by_one(opened)]  # type: ignore[attr-defined]
    assert found == [(f"set/{i}.txt", 0) for i in range(50)]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device or pipe"),
        (tarfile.FIFOTYPE, "a device or pipe"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes, fault: str) -> None:
    archive = tar(tmp_path / "a.tar", ("set/x", b""), kind=kind, link="/etc/passwd")
    assert f"'set/x' ({fault})" in refusal(archive)


def test_links_and_encrypted_members_in_a_zip_are_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", ("set/x", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777)
    assert "'set/x' (a link)" in refusal(archive)
    data = bytearray(zipped(archive, ("set/x", b"secret")).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    archive.write_bytes(data)
    assert "'set/x' (encrypted)" in refusal(archive)


@pytest.mark.parametrize("suffix", ["tar.gz", "zip"])
def test_a_decompression_bomb_too_many_members_and_a_full_disk_are_refused_before_anything_is_written(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 10_000)
    monkeypatch.setattr(module, "MOST_MEMBERS", 3)
    write = zipped if suffix == "zip" else tar
    assert "refused as a decompression bomb" in refusal(write(tmp_path / f"a.{suffix}", ("zeros", bytes(10_001))))
    assert "more than 3 members" in refusal(write(tmp_path / f"a.{suffix}", *((f"{i}", b"") for i in range(4))))
    with pytest.raises(UserError, match=r"bytes to unpack and .* to spare, but .* bytes are free there"):
        check_room(tmp_path, 2**62)


def test_a_folder_that_exists_gets_the_one_top_folder_of_an_archive_and_none_of_several_entries(tmp_path: Path) -> None:
    (tmp_path / "data" / "other").mkdir(parents=True)
    archive = zipped(tmp_path / "a.zip", ("set/one.txt", b"1"), ("set/b/two.txt", b"2"))
    archive = archive.rename(tmp_path / "a.tar")  # the kind is told by the bytes, not by the name
    unpack(archive, tmp_path / "data", Silent())
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["other", "set"]
    assert (tmp_path / "data" / "set" / "b" / "two.txt").read_bytes() == b"2"
    with pytest.raises(UserError, match="set exists already; expected nothing of that name"):
        unpack(archive, tmp_path / "data", Silent())
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="has 2 entries; expected a new folder"):
        unpack(zipped(tmp_path / "b.zip", ("one.txt", b"1"), ("two.txt", b"2")), tmp_path / "out", Silent())
    assert list((tmp_path / "out").iterdir()) == []
