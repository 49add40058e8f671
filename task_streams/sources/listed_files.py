"""Items that list files name, one path a line: each must be there, once, and inside of the root.

Lists: ``<id> <value>`` (CUB), ``<path> <class number>`` (DomainNet, PACS). What is wrong is collected, not raised.
A folder is listed once, so that a file costs no system call of its own.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from task_streams.config import repeated
from task_streams.errors import UserError, shown
from task_streams.sources.layout import below, entries, joined, lines, link_problem, with_all_classes
from task_streams.sources.records import FileSource, Found, Record, Split


@dataclass(slots=True)
class Files:
    """Looks up files that a list names, by listing each folder once.

    Attributes:
        root: resolved; paths are below it.
        folders: what was listed: names in each folder, with whether they are links; a sentence for a refused one.
    """

    root: Path
    folders: dict[str, dict[str, bool] | str] = field(default_factory=dict)

    def fault(self, relative: str) -> str:
        """Why a file cannot be used: ``missing``, or a sentence on a path that leads out of the root; else empty."""
        folder, _, name = relative.rpartition("/")
        if os.path.isabs(relative) or ".." in relative.split("/"):
            return f"{relative}: leads out of {self.root}; refused"
        if folder not in self.folders:
            try:
                path = below(self.root, folder)
                held = entries(path) if path.is_dir() else []
                self.folders[folder] = {entry.name: entry.is_symlink() for entry in held}
            except UserError as error:
                self.folders[folder] = str(error)
        listing = self.folders[folder]
        if isinstance(listing, str):
            return listing
        if name not in listing:
            return "missing"
        return link_problem(self.root, str(self.root / relative)) if listing[name] else ""


def listed_files(root: Path, records: Sequence[Record], source: str, on_damaged: str = "error") -> Found:
    """The records of a list whose files are there; their keys are paths below the resolved root.

    Missing files are a problem (``on_damaged=error``), or left out and noted (``skip``); ``source`` names the list.
    """
    files = Files(root)
    faults = {record.key: files.fault(record.key) for record in records}
    missing = sorted(key for key, fault in faults.items() if fault == "missing")
    refused = sorted({f"{source}: {fault}" for fault in faults.values() if fault not in ("", "missing")})
    twice = repeated(record.key for record in records)
    problems = [*refused, *([f"{source}: names {len(twice)} files more than once: {shown(twice)}"] if twice else [])]
    lost = [f"{source}: {len(missing)} files that it names are missing: {shown(missing)}"] if missing else []
    good = tuple(record for record in records if not faults[record.key])
    if on_damaged == "skip":
        return Found(good, tuple(f"{sentence}; left out" for sentence in lost), tuple(problems))
    return Found(good, (), (*problems, *lost))


def numbered(path: Path, value: str) -> tuple[dict[str, str], list[str]]:
    """Rows ``<id> <value>`` by id, and problems: rows without a value, ids given twice.

    Raises:
        UserError: the file cannot be read.
    """
    rows = [(number, *line.partition(" ")[::2]) for number, line in lines(path)]
    odd = [f"line {number} {key!r}" for number, key, found in rows if not found.strip()]
    problems = [f"{path.name}: expected '<id> <{value}>' a line; found {shown(odd, limit=5)}"] if odd else []
    if twice := repeated(key for _, key, _ in rows):
        problems.append(f"{path.name}: {len(twice)} ids are given more than once: {shown(twice)}")
    return {key: found.strip() for _, key, found in rows if found.strip()}, problems


def listed_domains(
    root: Path, lists: Mapping[str, tuple[Path, Path]], images: str = "", on_damaged: str = "error"
) -> Found:
    """Items by the training and the test list of each domain, lines ``<domain>/<class>/<image> <class number>``.

    Every class of a domain must be in both of its lists, no file may be in both, and a class number must stand for one
    class in all lists. ``images``: folder that the paths are relative to, ending in ``/``; empty = the root.

    Raises:
        UserError: a list cannot be read.
    """
    numbers: set[tuple[str, str]] = set()  # class number and class
    parts = []
    for domain, paths in lists.items():
        splits: tuple[tuple[Split, Path], ...] = (("train", paths[0]), ("test", paths[1]))
        train, test = (_listed_images(root, path, split, domain, images, on_damaged, numbers) for split, path in splits)
        twice = sorted({record.key for record in train.records} & {record.key for record in test.records})
        leak = [f"{domain}: {len(twice)} files are in both lists: {shown(twice)}"] if twice else []
        both = joined([train, test, Found((), (), tuple(leak))])
        both = replace(both, classes=tuple(sorted({record.label for record in both.records})))
        parts.append(with_all_classes(both, domain))
    classes: dict[str, list[str]] = {}
    numbers_of: dict[str, list[str]] = {}
    for number, name in sorted(numbers):
        classes.setdefault(number, []).append(name)
        numbers_of.setdefault(name, []).append(number)
    several = [f"{number} = {', '.join(found)}" for number, found in sorted(classes.items()) if len(found) > 1]
    several += [f"{', '.join(found)} = {name}" for name, found in sorted(numbers_of.items()) if len(found) > 1]
    problem = f"expected one class for each class number of the lists; found {shown(several)}"
    return joined([Found((), (), (problem,) if several else ()), *parts])


def _listed_images(
    root: Path, path: Path, split: Split, domain: str, images: str, on_damaged: str, numbers: set[tuple[str, str]]
) -> Found:
    """Items of one list; the class numbers that it gives go into ``numbers``."""
    records: list[Record] = []
    odd: list[str] = []
    for number, line in lines(path):
        relative, _, label = line.rpartition(" ")
        parts = relative.split("/")
        if len(parts) != 3 or parts[0] != domain or not label.isdecimal():
            odd.append(f"line {number} {line[:80]!r}")
            continue
        key = images + relative
        records.append(Record(key, parts[1], FileSource(Path(f"{root}/{key}")), split, domain))
        if parts[1] != "..":
            numbers.add((label, parts[1]))
    found = listed_files(root, records, path.name, on_damaged)
    expected = f"{path.name}: expected '{domain}/<class>/<image> <class number>' a line"
    problems = [f"{expected}; found {len(odd)} others: {shown(odd, limit=5)}"] if odd else []
    problems += [] if records or odd else [f"{expected}; found an empty list"]
    return replace(found, problems=(*problems, *found.problems))
