"""Questions outside the stream that tell what training did to general ability: a file of JSON lines is a probe set.

Four styles, each as published sets write it (docs/probes.md): ``choice`` (MMMU: images, question, options, a letter),
``yes_no`` (POPE: image, question, yes or no), ``instruction`` (IFEval: a prompt and checks of the reply's form), and
``open`` (accepted answers). Reading is here, rows are understood in ``rows.py``, scored in ``eval/probe.py``.
Images are read and decoded once when the set is read, so that a damaged one is told before any work, and again when
they are asked about. Deliberately absent: downloads, and any set of questions itself.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL.Image import Image

from task_streams.errors import UserError, shown
from task_streams.probes.rows import Row, Style, read_row
from task_streams.prompt import Request, user_turn
from task_streams.sources.images import decode_image
from task_streams.sources.layout import lines
from task_streams.sources.records import Damaged, FileSource

CHOICE_FORM = "Answer with the option's letter from the given choices directly."  # MMMU's
ENDING = ".jsonl"
NAMED = 5  # lines that a problem names; the rest is counted

Problems = dict[str, list[str]]  # lines by what is wrong with them


@dataclass(frozen=True, slots=True)
class Probe:
    """One question of a probe set.

    Attributes:
        key: name of the item, unique in its set.
        row: what is asked and what is right.
        paths: files of its images, in their order.
    """

    key: str
    row: Row
    paths: tuple[str, ...] = ()

    @property
    def style(self) -> Style:
        """How it is asked and scored."""
        return self.row.style

    def images(self) -> tuple[Image, ...]:
        """Its images, decoded.

        Raises:
            UserError: one of them has changed since the set was read, and cannot be decoded any more.
        """
        try:
            return tuple(decode_image(FileSource(path).read()) for path in self.paths)
        except Damaged as fault:
            raise UserError(f"probe item {self.key!r}: {', '.join(self.paths)}: {fault}") from fault


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """The questions of one file.

    Attributes:
        name: the file's name without its ending; the probe's in results.
        probes: its questions, in order.
        fingerprint: SHA-256 (hex) over what is asked, what is right and the images' bytes, in order.
    """

    name: str
    probes: tuple[Probe, ...] = field(repr=False)
    fingerprint: str = ""

    def counts(self) -> dict[str, int]:
        """Questions by style."""
        styles = [probe.style for probe in self.probes]
        return {style: styles.count(style) for style in dict.fromkeys(styles)}


def read_probe_set(path: Path) -> ProbeSet:
    """The probe set of a file; image paths start at the file's folder and stay inside of it.

    Raises:
        UserError: everything that is wrong with the file and its images, with the numbers of the lines.
    """
    if path.suffix != ENDING:
        raise UserError(f"probe set {str(path)!r}: expected a file of JSON lines, NAME{ENDING}.")
    problems: Problems = {}
    folder = path.parent.resolve()
    probes: list[Probe] = []
    first: dict[str, int] = {}
    digest = hashlib.sha256()
    for number, text in lines(path):
        row, faults = read_row(text)
        if row is not None:
            earlier = first.setdefault(row.key, number)
            faults = [*faults, *([f"id {row.key!r} is that of line {earlier} too"] if earlier != number else [])]
            paths, contents, broken = _images(folder, row.images)
            faults = [*faults, *broken]
            probes.append(Probe(row.key, row, paths))
            digest.update(json.dumps([row.facts(), contents], ensure_ascii=False).encode() + b"\n")
        for fault in faults:
            problems.setdefault(fault, []).append(str(number))
    if not probes and not problems:
        raise UserError(f"probe set {str(path)!r} is empty; expected a JSON object per line.")
    if problems:
        raise UserError(*(f"{path.name}, line {shown(where, NAMED)}: {fault}." for fault, where in problems.items()))
    return ProbeSet(path.name.removesuffix(ENDING), tuple(probes), digest.hexdigest())


def _images(folder: Path, names: tuple[str, ...]) -> tuple[tuple[str, ...], list[str], list[str]]:
    """Paths of images, SHA-256 of their bytes, and what is wrong with them."""
    paths: list[str] = []
    contents: list[str] = []
    faults: list[str] = []
    for name in names:
        path = (folder / name).resolve()
        if Path(name).is_absolute() or not path.is_relative_to(folder):
            faults.append(f"image {name!r} leads out of the file's folder")
            continue
        try:
            data = FileSource(path).read()
            decode_image(data)
        except Damaged as fault:
            faults.append(f"image {name!r}: {fault}")
            continue
        paths.append(str(path))
        contents.append(hashlib.sha256(data).hexdigest())
    return tuple(paths), contents, faults


def fingerprints_of(sets: Sequence[ProbeSet]) -> dict[str, str]:
    """Fingerprint of each set by its name."""
    return {one.name: one.fingerprint for one in sets}


def probe_request(probe: Probe) -> Request:
    """The question of a probe set in the set's own words, without the suite's form of a reply; images decoded."""
    text = probe.row.text
    if probe.row.options:
        listed = [f"({chr(ord('A') + place)}) {option}" for place, option in enumerate(probe.row.options)]
        text = "\n".join([text, *listed, "", CHOICE_FORM])
    shown = probe.images()
    return Request(probe.key, user_turn(text, shown), shown)
