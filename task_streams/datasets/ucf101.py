"""UCF-101 (Soomro, Zamir, Shah 2012): 13,320 clips of 101 actions, three official splits.

Layout, as the archives ``UCF101.rar`` and ``UCF101TrainTestSplits-RecognitionTask.zip`` unpack:
``UCF-101/<Class>/v_<Class>_g<group>_c<clip>.avi`` and ``ucfTrainTestlist/{classInd,trainlist0N,testlist0N}.txt``.
The lists (CRLF) are what counts: ``<Class>/<file> <label from 1>`` for training, ``<Class>/<file>`` for testing,
``<label> <Class>`` for the classes. Folder ``HandstandPushups`` holds ``v_HandStandPushups_…``: paths are taken as
they are listed. Listed clips that are not on disk are counted in the notes, and damaged when they are drawn. Class
names are split at capitals (``Apply_Eye_Makeup``), as in RaPO's released lists.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from task_streams.config import repeated
from task_streams.datasets.clip_folders import ClipCilConfig, clip_stream
from task_streams.errors import shown, unknown_name
from task_streams.registry import StreamSpec
from task_streams.sources.layout import existing_root, lines
from task_streams.sources.listed_files import Files
from task_streams.sources.records import FileSource, Found, Record, Split

CLIPS = "UCF-101"
LISTS = "ucfTrainTestlist"
CLASSES = "classInd.txt"
MISSING = "missing"  # what ``Files`` says of a file that is not there
PAGE = "https://www.crcv.ucf.edu/data/UCF101.php (UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip)"
WORD_START = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, kw_only=True)
class Ucf101CilConfig(ClipCilConfig):
    """UCF-101, new classes in each task."""

    split: Literal[1, 2, 3] = 1
    """Which of the official splits: 1, 2 or 3."""


def ucf101(config: Ucf101CilConfig) -> Found:
    """Every clip that the lists of the split name.

    Raises:
        UserError: the root is none, or a list cannot be read.
    """
    root = existing_root(config.root, f"{CLIPS}/<Class>/*.avi and {LISTS}/*.txt", PAGE, (CLIPS, LISTS))
    classes: dict[int, str] = {}  # class folders by their label from 1
    problems: list[str] = []
    for number, line in lines(root / LISTS / CLASSES):
        label, _, folder = line.partition(" ")
        if not label.isdecimal() or not folder or " " in folder:
            problems.append(f"{CLASSES}, line {number}: expected '<label> <Class>'; found {line!r}")
        elif int(label) in classes or folder in classes.values():
            problems.append(f"{CLASSES}, line {number}: {line!r} names a label or class a second time")
        else:
            classes[int(label)] = folder
    if not classes:
        problems.append(f"{CLASSES}: no classes in it; expected '<label> <Class>' in each line")
    records: list[Record] = []
    lists: dict[Split, str] = {"train": f"trainlist0{config.split}.txt", "test": f"testlist0{config.split}.txt"}
    for split, name in lists.items():
        rows = lines(root / LISTS / name)
        problems += [] if rows else [f"{name}: an empty list"]
        for number, line in rows:
            if problem := _line_problem(line, split, classes):
                problems.append(f"{name}, line {number}: {problem}")
                continue
            path = line.split(" ")[0]
            label = class_name(path.partition("/")[0])
            records.append(Record(f"{CLIPS}/{path}", label, FileSource(root / CLIPS / path), split))
    if twice := repeated(record.key for record in records):
        problems.append(f"{LISTS}: split {config.split} lists {len(twice)} clips more than once: {shown(twice)}")
    files = Files(root)
    faults = [fault for record in records if (fault := files.fault(record.key))]
    problems += sorted({fault for fault in faults if fault != MISSING})
    lost = faults.count(MISSING)
    notes = (f"{lost} of {len(records)} listed clips are not on disk",) if lost else ()
    return Found(tuple(records), notes, tuple(problems), tuple(class_name(name) for name in classes.values()))


def class_name(folder: str) -> str:
    """Name of a class as prompts list it: ``ApplyEyeMakeup`` to ``Apply_Eye_Makeup``."""
    return WORD_START.sub("_", folder)


def _line_problem(line: str, split: Split, classes: Mapping[int, str]) -> str:
    """What is wrong with a line of a list; empty when nothing is."""
    form = "<Class>/<file> <label>" if split == "train" else "<Class>/<file>"
    path, _, label = line.partition(" ")
    folder, _, file = path.partition("/")
    if not file or bool(label) != (split == "train") or "/" in file or ".." in (folder, file):
        return f"expected '{form}'; found {line!r}"
    if folder not in classes.values():
        return unknown_name("class", folder, classes.values())
    if split == "test":
        return ""
    if not label.isdecimal() or int(label) not in classes:
        return f"label {label!r} of {path}; expected {min(classes)} to {max(classes)}"
    if classes[int(label)] != folder:
        return f"label {label} is {classes[int(label)]}, but {path} is of {folder}"
    return ""


CIL = StreamSpec(
    Ucf101CilConfig,
    partial(clip_stream, "ucf101_cil", ucf101),
    "UCF-101, clips of 101 human actions, new classes in each task",
    "for research; the clips are from YouTube, their uploaders hold the rights",
    "Soomro, Zamir, Shah: UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild, "
    "arXiv:1212.0402, 2012; https://www.crcv.ucf.edu/data/UCF101.php",
)
