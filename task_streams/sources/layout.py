"""What readers of layouts share: a root that is as expected, what a folder holds, and paths that stay inside.

A layout reads names only: folders are listed and lists are read, no item is opened. Nothing is downloaded or
unpacked. Hidden entries are passed over. Symbolic links are followed inside of the root only.
Class folders: ``class_folders.py``; list files: ``listed_files.py``.
"""

import codecs
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

from task_streams.errors import UserError, open_file, shown, unknown_name
from task_streams.labels import label_problems, shown_form
from task_streams.sources.records import Found, Record
from task_streams.types import Question, Target

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".rar", ".7z")

LINKS_REMEDY = " (set links=anywhere to follow links)"
# Whether links may lead out of the root: a setting of the stream that is being built (``build_stream``).
links_anywhere: ContextVar[bool] = ContextVar("links_anywhere", default=False)

Entry = os.DirEntry[str]


def existing_root(root: str, layout: str, where_to_get: str = "", needs: Sequence[str] = ()) -> Path:
    """The root of a dataset, resolved.

    Args:
        root: as the user gave it; ``~`` is the home folder.
        layout: what is expected below it, e.g. ``<class>/<image>``.
        where_to_get: official page of the data; empty = nothing to get.
        needs: files and folders that must be there; without them one folder must be.

    Raises:
        UserError: it is no such folder; says what was expected, what was found instead, and where to get it.
    """
    try:
        path = Path(root).expanduser()
        complaint = _root_complaint(path, needs)
    except (OSError, RuntimeError) as error:  # no permission, or no such user's home
        raise UserError(f"root {root!r}: expected a readable folder with {layout}; {error}") from error
    if complaint:
        remedy = f". Where to get it: {where_to_get}" if where_to_get else ""
        raise UserError(f"root {root!r}: expected a folder with {layout}; found {complaint}{remedy}")
    return path.resolve()


def _root_complaint(path: Path, needs: Sequence[str]) -> str:
    """What stands where a root is expected; empty when it is as expected."""
    if path.exists() and not path.is_dir():
        packed = path.name.lower().endswith(ARCHIVES)
        return "a packed archive; give the folder that it unpacks to" if packed else "a file there"
    folder, where = (path, "in there") if path.is_dir() else (path.parent, "beside it")
    names = [entry.name for entry in entries(folder)] if folder.is_dir() else []
    archives = [name for name in names if name.lower().endswith(ARCHIVES)]
    packed_there = f", and still packed {where}: {shown(archives, limit=3)}" if archives else ""
    if not path.is_dir():
        return f"nothing there{packed_there}"
    missing = [name for name in needs if not (path / name).exists()]
    if not needs and len(names) == 1 and names[0] == path.name:
        return f"{names[0]} in {names[0]}: set root to {path / names[0]}"
    if not missing and (needs or subfolders(path)):
        return ""
    lacks = f" (missing: {', '.join(missing)})" if 0 < len(missing) < len(needs) else ""
    # unpacking often nests everything one level deeper
    inner = [entry.path for entry in subfolders(path) if all(Path(entry.path, name).exists() for name in needs)]
    hint = f"; all of it is in {inner[0]}: set root to that" if needs and inner else ""
    return f"{shown(names, limit=5) or 'an empty folder'}{lacks}{packed_there}{hint}"


def below(root: Path, relative: str) -> Path:
    """A path that a list or a setting names below a resolved root; it need not exist.

    Raises:
        UserError: it is absolute, climbs out with ``..``, or follows a link out of the root.
    """
    path = root / relative
    inside = links_anywhere.get() or Path(os.path.realpath(path)).is_relative_to(root)
    if os.path.isabs(relative) or ".." in Path(relative).parts or not inside:
        raise UserError(f"{relative}: leads out of {root}; refused")
    return path


def link_problem(root: Path, path: str) -> str:
    """Problem of a link that leads out of a resolved root; empty when it stays inside."""
    inside = links_anywhere.get() or Path(os.path.realpath(path)).is_relative_to(root)
    return "" if inside else f"{path}: a link that leads out of {root}; refused{LINKS_REMEDY}"


def entries(folder: Path | str) -> list[Entry]:
    """What a folder holds, sorted by name, hidden entries left out.

    Raises:
        UserError: it cannot be read, or holds names that are no UTF-8.
    """
    try:
        with os.scandir(folder) as listing:
            found = sorted((entry for entry in listing if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: expected a readable folder; {error.strerror}") from error
    foreign = [entry.name for entry in found if not entry.name.isascii()]
    if foreign and (encoding := sys.getfilesystemencoding()) != "utf-8":  # any name would be read as another
        said = f"{folder}: {len(foreign)} names have letters that this locale reads as {encoding}, not as UTF-8"
        raise UserError(f"{said}; set PYTHONUTF8=1 or LC_ALL=C.UTF-8 for the command")
    if odd := [ascii(name) for name in foreign if not is_text(name)]:
        raise UserError(f"{folder}: expected names in UTF-8; found {shown(odd, limit=5)}; rename them")
    return found


def is_text(name: str) -> bool:
    """Whether a text can be written as UTF-8: without halves of surrogate pairs, as Python shows bytes that cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def is_folder(entry: Entry) -> bool:
    """Whether an entry is a folder or a link to one; a link in a circle is none."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def subfolders(folder: Path | str) -> list[Entry]:
    """Folders in a folder, sorted by name."""
    return [entry for entry in entries(folder) if is_folder(entry)]


def read_text(path: Path) -> str:
    """A text file in UTF-8, with a byte order mark or without; line ends of any kind are read.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is in UTF-16, or no text.
    """
    with open_file(path) as file:
        data = file.read()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:4]:
        raise ValueError("it is in UTF-16 or UTF-32; save it as UTF-8")
    return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def lines(path: Path) -> list[tuple[int, str]]:
    """Lines of a text file with their numbers from 1, ends and blank lines stripped; either kind of line end.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise UserError(f"{path}: expected a readable text file; {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: expected UTF-8 text; {error}") from error
    stripped = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, line) for number, line in stripped if line]


def joined(parts: Iterable[Found]) -> Found:
    """Several parts of a source as one."""
    parts = list(parts)
    return Found(
        tuple(record for part in parts for record in part.records),
        tuple(note for part in parts for note in part.notes),
        tuple(problem for part in parts for problem in part.problems),
        tuple(sorted({name for part in parts for name in part.classes})),
    )


def as_shown(found: Found) -> Found:
    """What was found, with names, questions and answers in the form in which prompts show them.

    Names that are one in that form, as "é" may be written in two ways, are a problem: they would silently be merged.
    """
    names = {*found.classes, *(record.target for record in found.records if isinstance(record.target, str))}
    domains = {record.domain for record in found.records} - {""}
    questions = any(isinstance(record.target, Question) for record in found.records[:1])
    if all(map(str.isascii, names | domains)) and not questions:
        return found  # as most are, however many
    merged = [label_problems(some) for some in (names, domains) if len(set(map(shown_form, some))) < len(some)]
    records = tuple(map(_as_shown, found.records))
    problems = (*found.problems, *(problem for some in merged for problem in some))
    return replace(found, records=records, problems=problems, classes=tuple(map(shown_form, found.classes)))


def renamed(records: Iterable[Record], names: Mapping[str, str]) -> tuple[Record, ...]:
    """Items whose classes go by other names, by their present ones; keys stay.

    Raises:
        UserError: a class that is not there, or one name for two classes.
    """
    records, given = tuple(records), {shown_form(old): shown_form(new.strip()) for old, new in names.items()}
    new = {name: given.get(name, name) for name in sorted({record.label for record in records})}
    problems = [unknown_name("class", name, new) for name in given if name not in new]
    if problems or (problems := shared_names(new)):
        raise UserError(*(f"class_names: {problem}" for problem in problems))
    return tuple(replace(record, target=new[record.label]) for record in records)


def _as_shown(record: Record) -> Record:
    target: Target = record.target
    if isinstance(target, str):
        target = shown_form(target)
    elif isinstance(target, Question):
        answers = tuple(dict.fromkeys(map(shown_form, target.answers)))
        target = replace(target, text=shown_form(target.text), answers=answers)
    domain = shown_form(record.domain)
    same = target == record.target and domain == record.domain
    return record if same else replace(record, target=target, domain=domain)


def with_all_classes(found: Found, domain: str = "") -> Found:
    """What was found, with a problem for classes of the source that have no items to train on or to test on."""
    problems = []
    where = f"{domain}: " if domain else ""
    for split, kind in (("train", "training "), ("test", "test "), ("", "")):
        there = {record.label for record in found.records if record.split in (split, "")}
        empty = [name for name in found.classes if name not in there]
        if empty and any(record.split == split for record in found.records):
            problems.append(
                f"{where}no {kind}items of {len(empty)} of the {len(found.classes)} classes: {shown(empty)}"
            )
    return replace(found, problems=(*found.problems, *problems))


def shared_names(names: Mapping[str, str]) -> list[str]:
    """Problems of classes (id to name) that have one and the same name, so that they would silently be merged."""
    owners: dict[str, list[str]] = {}
    for identity, name in names.items():
        owners.setdefault(name, []).append(identity)
    return [
        f"classes {', '.join(sorted(ids))} are all named {name!r}; expected a name of its own for each"
        for name, ids in sorted(owners.items())
        if len(ids) > 1
    ]
