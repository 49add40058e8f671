"""Identity of a stream's data, and the checks that a stream must pass before anything is trained on it."""

import hashlib
import json
from collections.abc import Iterable, Sequence

from task_streams.errors import shown
from task_streams.prompt import question_about
from task_streams.types import Example, TaskStream, target_value


def fingerprints(stream: TaskStream) -> dict[str, str]:
    """SHA-256 (hex) of each task's splits, e.g. ``task_01/train``, over (key, label, content) in order."""
    found = {}
    for task in stream.tasks:
        found[f"task_{task.index:02d}/train"] = fingerprint(task.train)
        found[f"task_{task.index:02d}/test"] = fingerprint(task.test)
    return found


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 (hex) over (key, label, content) of examples, in order; equal on every machine."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.key, target_value(example.target), example.content]).encode() + b"\n")
    return digest.hexdigest()


def prompt_fingerprints(stream: TaskStream) -> dict[str, str]:
    """SHA-256 (hex) of what is asked about each task, e.g. ``task_01``, and of the ``style`` with all that it says.

    Of a task every distinct question in its words: training items under the classes that training prompts list, test
    items under the classes seen so far; without media (but for whether clips are asked about as videos), and without
    the model's chat template.
    """
    found = {"style": stream.tasks[0].style.digest}
    for task in stream.tasks:
        asked = [question_about(example.target, task.trained, task.style) for example in task.train]
        asked += [question_about(example.target, task.seen, task.style) for example in task.test]
        asked += [stream.feed] if stream.feed == "video" else []
        texts = "\0".join(dict.fromkeys(asked))
        found[f"task_{task.index:02d}"] = hashlib.sha256(texts.encode()).hexdigest()
    return found


def check_stream(stream: TaskStream) -> list[str]:
    """Sentences about data that would make a result wrong; empty when the stream is sound.

    Checked over all tasks: a key used twice, a test item that is trained on (by content), the same content in the
    training or in the test items of two tasks or in items of two classes, an empty split, a label outside its
    task's classes, a box to learn from of a class that is not taught yet. The content of a question includes what is
    asked. Deliberately no problem: one image with boxes of several tasks in the test of each, and copies of one class
    inside one split of one task. They leak nothing and contradict nothing, official test sets hold some, and the draw
    notes them.
    """
    problems = []
    for task in stream.tasks:
        for split, examples, boxed in (("training", task.train, task.seen), ("test", task.test, stream.labels)):
            if not examples:
                problems.append(f"task {task.name}: no {split} examples")
            targets = [example.target for example in examples]
            if labels := {target for target in targets if isinstance(target, str)} - set(task.classes):
                problems.append(f"task {task.name}: {split} labels outside its classes: {shown(sorted(labels))}")
            boxes = {box.category for target in targets if isinstance(target, tuple) for box in target}
            if others := sorted(boxes - set(boxed)):
                what = f"{split} boxes of classes not taught yet, or never"
                problems.append(f"task {task.name}: {what}: {shown(others)}")
    items: list[tuple[str, str, Example]] = []  # with its place, e.g. ``three+eight train``, and its split
    shared: set[Example] = set()  # test images with boxes, of the tasks so far, which stand there once
    for task in stream.tasks:
        tests = [item for item in task.test if item not in shared]
        items += [(f"{task.name} train", "train", item) for item in task.train]
        items += [(f"{task.name} test", "test", item) for item in tests]
        shared.update(item for item in tests if isinstance(item.target, tuple))
    places: dict[str, list[str]] = {}
    for place, _, example in items:
        places.setdefault(example.key, []).append(place)
    if twice := [f"{key} ({' and '.join(found)})" for key, found in places.items() if len(found) > 1]:
        problems.append(f"{len(twice)} keys are used more than once: {shown(twice)}")
    return problems + _repeated_content(items)


def _repeated_content(items: Sequence[tuple[str, str, Example]]) -> list[str]:
    """Content in training and test, in one split of two tasks, or of two classes; each copy is told once."""
    first: dict[str, dict[str, tuple[str, Example]]] = {"train": {}, "test": {}}
    again: dict[str, list[str]] = {"train": [], "test": []}
    conflicts: list[str] = []
    for place, split, example in items:
        earlier, other = first[split].setdefault(example.content, (place, example))
        if other.key == example.key:
            continue  # itself, or a repeated key, which is reported as such
        if earlier != place:
            again[split].append(_pair(place, example, earlier, other))
        elif isinstance(example.target, str) and example.target != other.target:
            conflicts.append(_pair(place, example, earlier, other))
    leaks = [
        _pair(place, example, *first["train"][example.content])
        for place, split, example in items
        if split == "test" and example.content in first["train"]
    ]
    faults = {
        "test items are trained on": leaks,
        "items are trained on in two tasks": again["train"],
        "items are tested on in two tasks": again["test"],
        "items have the content of an item of another class": conflicts,
    }
    return [f"{len(pairs)} {what}: {shown(pairs)}" for what, pairs in faults.items() if pairs]


def _pair(place: str, example: Example, earlier: str, first: Example) -> str:
    """A copy and what it is a copy of, with their classes where these differ."""
    classes = [item.target if isinstance(item.target, str) else "" for item in (example, first)]
    named = [f", {label}" if classes[0] != classes[1] else "" for label in classes]
    return f"{example.key} ({place}{named[0]}) = {first.key} ({earlier}{named[1]})"
