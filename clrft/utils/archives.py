"""Archives of datasets to folders: all members are looked at first, then unpacked beside and renamed as a whole.

Formats: tar (plain, gz, bz2, xz) and zip. A compressed tar is read twice: to look, and to unpack.
Refused before anything is written: names that are absolute, too long for a disk or lead upwards, links and devices (no
dataset needs them, and they are how archives escape their folder), encrypted members, more members or bytes than the
limits, and more bytes than the disk has free. Deliberately absent: downloads.
"""

import contextlib
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from clrft.utils.files import check_writable, whole_folder
from clrft.utils.progress import Reporter
from task_streams.errors import UserError, brief, open_file

MOST_MEMBERS = 20_000_000  # ImageNet-21k has 14 million images
MOST_BYTES = 4 * 2**40
MOST_NAME = 2**16  # bytes of a header that holds a long name, or all attributes of a member
LONGEST_PATH = 4095  # bytes, on Linux
MOST_RATIO = 1000  # bytes unpacked for each byte of the archive; the densest deflate reaches 1032
SPARE = 2**28  # bytes of the disk that stay free
NAMED = 10
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


class BoundedTarInfo(tarfile.TarInfo):
    """A header whose long name (GNU, PAX) is bounded before it is read; ``tarfile`` would read gigabytes of it."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        long = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
        if self.type in (*long, tarfile.SOLARIS_XHDTYPE) and self.size > MOST_NAME:
            held = f"a member's name or attributes of {self.size} bytes"
            raise UserError(f"{os.fsdecode(tar.name or b'')}: {held}; expected {MOST_NAME} at most; refused")
        return super()._proc_member(tar)  # type: ignore[misc]


class Member(NamedTuple):
    """One entry of an archive, as it says itself."""

    name: str
    size: int
    fault: str  # why it is refused; empty if it is not
    extract: Callable[[Path], object]  # into a folder


def unpack(archive: Path, folder: Path, reporter: Reporter) -> None:
    """Unpack an archive into a folder; what it holds appears whole or not at all.

    A folder that exists gets the archive's one top folder beside what it holds; a new one gets everything.

    Raises:
        UserError: no archive, a damaged or hostile one, something of that name is there, or too little room; nothing
            is left.
    """
    if not folder.is_dir():
        unpack_new(archive, folder, reporter)
        return
    with opened(archive) as members:
        tops = {PurePosixPath(member.name).parts[:1] for member in members} - {()}
    if len(tops) != 1:
        raise UserError(f"{folder} exists already, and {archive} has {len(tops)} entries; expected a new folder.")
    top = tops.pop()[0]
    if (folder / top).exists() or (folder / top).is_symlink():
        raise UserError(f"{folder / top} exists already; expected nothing of that name.")
    with TemporaryDirectory(dir=folder, prefix=".unpacking-") as scratch:
        unpack_new(archive, Path(scratch) / "all", reporter)
        (Path(scratch) / "all" / top).rename(folder / top)


def unpack_new(archive: Path, folder: Path, reporter: Reporter) -> None:
    """Unpack an archive into a new folder."""
    label = archive.name
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} exists already; expected a new folder.")
    with opened(archive) as members:
        reporter.begin(label, "looking", None)
        count, size = looked_through(archive, members, lambda: reporter.advance(label))
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_writable(folder.parent)
    check_room(folder.parent, size)
    reporter.begin(label, "unpacking", count)
    with whole_folder(folder) as beside, opened(archive) as members:
        for member in members:
            member.extract(beside)
            reporter.advance(label)


def looked_through(archive: Path, members: Iterator[Member], advance: Callable[[], None]) -> tuple[int, int]:
    """Number of members and bytes of an archive; hostile members, all of them named, and too many are refused."""
    faults: list[str] = []  # the first ones; names may be long
    count = size = refused = 0
    most = min(MOST_BYTES, MOST_RATIO * max(archive.stat().st_size, 2**20))
    for member in members:
        count, size = count + 1, size + member.size
        if member.fault:
            refused += 1
            faults += [f"{brief(member.name)} ({member.fault})"] if refused <= NAMED else []
        if count > MOST_MEMBERS or size > most:
            limits = f"{MOST_MEMBERS} members or {most} bytes"
            raise UserError(f"{archive}: more than {limits} to unpack; refused as a decompression bomb")
        advance()
    if faults:
        rest = f" and {refused - NAMED} more" if refused > NAMED else ""
        raise UserError(f"{archive}: {refused} members are refused, nothing was unpacked: {', '.join(faults)}{rest}")
    if not count:
        raise UserError(f"{archive}: an archive without members")
    return count, size


def check_room(folder: Path, size: int) -> None:
    """Make sure that the disk has room.

    Raises:
        UserError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if size + SPARE > free:
        raise UserError(f"{folder}: {size} bytes to unpack and {SPARE} to spare, but {free} bytes are free there")


@contextmanager
def opened(archive: Path) -> Iterator[Iterator[Member]]:
    """The members of an archive one after the other."""
    with damage_named(archive):
        if is_tar(archive):
            with open_file(archive) as file, tarfile.open(archive, fileobj=file, tarinfo=BoundedTarInfo) as tar:
                yield tar_members(tar)
        else:
            with open_file(archive) as file, zipfile.ZipFile(file) as packed:
                yield zip_members(packed)


def tar_members(tar: tarfile.TarFile) -> Iterator[Member]:
    """The members of a tar, of which none is kept; iterating over a ``TarFile`` keeps them all in memory."""
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        fault = fault_of(info.name, info.isfile() or info.isdir(), info.issym() or info.islnk())
        extract = partial(tar.extract, info, filter="data", set_attrs=not info.isdir())
        yield Member(info.name, info.size if info.isfile() else 0, fault, extract)


def zip_members(packed: zipfile.ZipFile) -> Iterator[Member]:
    """The members of a zip."""
    for info in packed.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        fault = fault_of(info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), kind == stat.S_IFLNK)
        fault = fault or ("encrypted" if info.flag_bits & 1 else "")
        yield Member(info.filename, info.file_size, fault, partial(packed.extract, info))


def is_tar(archive: Path) -> bool:
    """Whether an archive is a tar; it is a zip otherwise, and what is neither or cannot be read is refused."""
    try:
        with open_file(archive) as file:
            with contextlib.suppress(*DAMAGED), tarfile.open(archive, fileobj=file, tarinfo=BoundedTarInfo):
                return True
            file.seek(0)
            if zipfile.is_zipfile(file):
                return False
    except OSError as error:
        raise UserError(f"can't read {archive} ({error.strerror or error}); expected a tar or zip archive.") from error
    raise UserError(f"{archive} is neither a tar (plain, gz, bz2 or xz) nor a zip archive, or is cut off.")


@contextmanager
def damage_named(archive: Path) -> Iterator[None]:
    """Errors of a damaged archive, and of writing, as sentences."""
    try:
        yield
    except DAMAGED as error:
        raise UserError(
            f"{archive} is damaged or cannot be unpacked ({str(error) or type(error).__name__})."
        ) from error
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise UserError(f"{archive}: {error.strerror or error}{where}; nothing was unpacked.") from error


def fault_of(name: str, is_plain: bool, is_link: bool) -> str:
    """Why an entry is refused, by its name and kind; empty if it is not."""
    if len(os.fsencode(name)) > LONGEST_PATH:
        return f"a name of {len(name)} characters"
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or (path.parts and path.parts[0].endswith(":")):
        return "an absolute path"
    if ".." in path.parts:
        return "a path that leads upwards"
    return "" if is_plain else "a link" if is_link else "a device or pipe"
