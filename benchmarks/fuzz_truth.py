"""Streams of generated folders (``benchmarks/fuzz_data.py``) against what is right about each of their items.

Every item is used as it is meant, or named in what the command says; a folder that is right passes, one that is not is
refused; right answers score in full, and others do not.
"""

import random
import re
import unicodedata
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.fuzz_call import Outcome, Place, inside
from benchmarks.fuzz_data import BOXES, ROWS, SIZE, Expected, Folder, Item, make, number_of
from clrft.cli.data import data_config
from eval.score import score
from task_streams import Workspace, build_stream
from task_streams.answers import normalise_answer
from task_streams.labels import normalise_label
from task_streams.prompt import target_text
from task_streams.types import Example, Question, Task, TaskStream

CHECK = ("data", "check", "s.yaml", "run.output=out")
NEAR = 30  # thousandths that the corner of a box may be off: boxes in the XML are whole pixels of 40
# Answers that are not those they are made of.
WRONG = ((r"^[-−]", ""), (r"^(?=[\d$.])", "-"), (r"\.(?=\d)", ""), (r"^(?=5%)", "."), (r"^2015$", "1990"), (r"%$", ""))


def trial(place: Place, rng: random.Random) -> dict[str, Any]:
    """One folder, checked without a model and, one time in three, with one."""
    folder = make(place.work, rng)
    calls = [(CHECK, folder.expects)]
    calls += [((*CHECK, "model=tiny"), folder.with_model)] if rng.random() < 1 / 3 else []
    codes, faults, said = [], [], ""
    for words, expects in calls:
        outcome = place.call(words)
        codes.append(outcome.code)
        found = [*outcome.faults, *judged(folder, outcome, expects)]
        if outcome.code == 0 and not found:
            with inside(place.work, place.home):
                found += against_truth(folder, built(place.output), outcome)
        faults += [f"{' '.join(words[4:])} {fault}".strip() for fault in found]
        said = outcome.out + outcome.err if found else said
    return {
        "layout": folder.layout,
        "befallen": folder.befallen,
        "codes": codes,
        "faults": faults,
        "said": said[-1500:],
    }


def judged(folder: Folder, outcome: Outcome, expects: Expected) -> list[str]:
    """What is wrong with the way in which a call ended."""
    said = outcome.out + outcome.err
    odd = {letter for letter in said if unicodedata.category(letter) in ("Cc", "Cf") and letter not in "\n\t"}
    faults = [f"characters that a terminal obeys were printed: {sorted(map(ascii, odd))}"] if odd else []
    if (outcome.code, expects) == (0, "refused"):
        faults.append("passed, but must be refused")
    if (outcome.code, expects) == (2, "passes"):
        faults.append(f"refused, but must pass: {outcome.err.strip()[:500]}")
    return faults


def built(output: Path) -> TaskStream:
    """The stream of ``s.yaml`` in the working folder."""
    config = data_config("s.yaml", [f"run.output={output}"])
    return build_stream(config.stream_name, config.stream, config.seed, Workspace(output / ".cache"))


def against_truth(folder: Folder, stream: TaskStream, outcome: Outcome) -> list[str]:
    """Items that are lost without a word, or are not what they are."""
    uses: dict[int, list[tuple[Task, Example]]] = {}
    for task in stream.tasks:
        for example in (*task.train, *task.test):
            uses.setdefault(number(folder, example), []).append((task, example))
    faults = []
    said = outcome.out + outcome.err
    for item in folder.items:
        if item.number not in uses:
            named = re.search(rf"\b{item.stem}\b", said) or item.label in said
            faults += [] if named else [f"item {item.stem} ({item.label!r}) is lost without a word"]
        elif item.lost:
            faults.append(f"item {item.stem} is used, which nothing can be known about")
        else:
            task, example = uses[item.number][0]
            faults += [f"item {item.stem}: {fault}" for fault in wrong(folder, item, task, example)]
    return faults


def number(folder: Folder, example: Example) -> int:
    """The item that an example is: by its picture where rows have no names, else by its name."""
    stems = [] if folder.layout in ROWS else re.findall(r"\d{3}", example.key)
    if stems:
        return int(stems[-1])
    image = example.media()
    assert isinstance(image, Image.Image)
    return number_of(image)


def wrong(folder: Folder, item: Item, task: Task, example: Example) -> list[str]:
    """What an example has that its item has not."""
    faults = []
    target, labels = example.target, task.seen
    if isinstance(target, Question):
        if normalise_answer(target.answers[0]) != normalise_answer(item.label):
            faults.append(f"its answer is {target.answers[0]!r}, not {item.label!r}")
        for pattern, instead in WRONG:
            other = re.sub(pattern, instead, item.label)
            if other != item.label and score(f"<think>x</think><answer>{other}</answer>", target, ()).correct:
                faults.append(f"{other!r} is taken for {item.label!r}")
    elif isinstance(target, tuple):
        (box,) = target if len(target) == 1 else (None,)
        meant = tuple(round(1000 * share) for share in item.box)
        if box is None or any(abs(a - b) > NEAR for a, b in zip(box.corners, meant, strict=True)):
            faults.append(f"its boxes are {target}, not {meant}")
        elif normalise_label(box.category) != normalise_label(item.label):
            faults.append(f"its box is a {box.category!r}, not {item.label!r}")
    elif normalise_label(target) != normalise_label(item.label):
        faults.append(f"its class is {target!r}, not {item.label!r}")
    else:
        taken = [
            name for name in labels if name != target and right(target_text(name, style=task.style), task, example)
        ]
        faults += [f"{name!r} is taken for {target!r}" for name in taken]
    if not right(target_text(target, style=task.style, labels=labels), task, example):
        faults.append("its right answer is scored as wrong")
    image = example.media()
    assert isinstance(image, Image.Image)
    return faults + wrong_picture(folder, item, image)


def right(completion: str, task: Task, example: Example) -> bool:
    """Whether a completion scores in full."""
    found = score(completion, example.target, task.seen, task.style)
    return found.correct and found.components["format"] == 1


def wrong_picture(folder: Folder, item: Item, image: Image.Image) -> list[str]:
    """Whether an image is not the one that is meant, seen upright."""
    grey = image.convert("L")
    if item.look in ("thin", "dot", "wide"):
        return []
    if image.size != SIZE:
        return [f"its image is {image.size}, not {SIZE}"]
    if item.look in ("grey12", "grey16"):
        low, high = grey.getextrema()
        return [] if high > 200 and low < 160 else [f"its greys go from {low} to {high}, not from 127 to 255"]
    if folder.layout in BOXES:
        x, y = ((item.box[i] + item.box[i + 2]) / 2 for i in (0, 1))
        inside_box = grey.getpixel((int(x * SIZE[0]), int(y * SIZE[1])))
        return [] if isinstance(inside_box, int) and inside_box > 128 else ["its box is not where it is seen"]
    shown = number_of(image)
    return [] if shown == item.number else [f"it shows {shown}"]
