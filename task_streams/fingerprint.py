"""Identity of a stream's data, and the checks that a stream must pass before anything is trained on it."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from task_streams.draw import shown
from task_streams.types import Example, Question, Target, Task, TaskStream


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


def target_value(target: Target) -> Any:
    """A target as plain values; a class name stays a string."""
    if isinstance(target, tuple):
        return [[box.category, *box.corners] for box in target]
    return [target.text, *target.answers, target.rule] if isinstance(target, Question) else target


def check_stream(stream: TaskStream) -> list[str]:
    """Sentences about data that would make a result wrong; empty when the stream is sound.

    Checked over all tasks: a key used twice, the same content in two training items of different tasks,
    a test item that is trained on (by content), an empty split, a label outside its task's classes, a box of a
    class that is not taught yet.
    """
    problems = []
    for task in stream.tasks:
        for split, examples in (("training", task.train), ("test", task.test)):
            if not examples:
                problems.append(f"task {task.name}: no {split} examples")
            problems += _strange_classes(task, split, examples)
    return problems + _repeated_keys(stream) + _repeated_content(stream)


def _strange_classes(task: Task, split: str, examples: Iterable[Example]) -> list[str]:
    """Classes that must not be in a task: of an image others than its own, of a box those that come later."""
    targets = [example.target for example in examples]
    labels = {target for target in targets if isinstance(target, str)} - set(task.classes)
    boxed = {box.category for target in targets if isinstance(target, tuple) for box in target} - set(task.seen)
    found = [f"task {task.name}: {split} labels outside its classes: {shown(sorted(labels))}"] if labels else []
    later = f"task {task.name}: {split} boxes of classes not taught yet: {shown(sorted(boxed))}"
    return [*found, later] if boxed else found


def _repeated_keys(stream: TaskStream) -> list[str]:
    places: dict[str, list[str]] = {}
    for place, _, example in _items(stream):
        places.setdefault(example.key, []).append(place)
    twice = [f"{key} ({' and '.join(found)})" for key, found in places.items() if len(found) > 1]
    return [f"{len(twice)} keys are used more than once: {shown(twice)}"] if twice else []


def _repeated_content(stream: TaskStream) -> list[str]:
    """Content in training and test, or in the training of two tasks; equal keys are reported elsewhere."""
    trained: dict[str, tuple[str, Example]] = {}
    leaks, repeats = [], []
    for place, split, example in _items(stream):
        if split == "train":
            earlier, first = trained.setdefault(example.content, (place, example))
            if earlier != place and first.key != example.key:
                repeats.append(f"{example.key} ({place}) = {first.key} ({earlier})")
    for place, split, example in _items(stream):
        if split == "test" and example.content in trained:
            earlier, first = trained[example.content]
            leaks.append(f"{example.key} ({place}) = {first.key} ({earlier})")
    problems = [f"{len(leaks)} test items are trained on: {shown(leaks)}"] if leaks else []
    return problems + ([f"{len(repeats)} items are trained on in two tasks: {shown(repeats)}"] if repeats else [])


def _items(stream: TaskStream) -> list[tuple[str, str, Example]]:
    """Every example with its place, e.g. ``three+eight train``, and its split."""
    splits = [(task, split, getattr(task, split)) for task in stream.tasks for split in ("train", "test")]
    return [(f"{task.name} {split}", split, item) for task, split, items in splits for item in items]
