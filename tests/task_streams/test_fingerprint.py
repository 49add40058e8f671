import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from task_streams.scenarios.draw import Pool
from task_streams.scenarios.fingerprint import check_stream, fingerprint, fingerprints
from task_streams.scenarios.split import build_cil, build_dil
from task_streams.types import Box, Example, Question, Task, TaskStream
from tests.task_streams.streams import black, make_examples


def sound() -> TaskStream:
    return build_cil("s", Pool(make_examples("abcd", 10)), sizes=(2, 2), order_seed=0, shots=3, test_per_class=2)


def with_task(stream: TaskStream, task: Task) -> TaskStream:
    tasks = tuple(task if old.index == task.index else old for old in stream.tasks)
    return replace(stream, tasks=tasks)


def test_a_key_or_content_that_comes_again_in_another_task_is_found() -> None:
    stream = sound()
    first, second = stream.tasks
    item = first.train[0]
    origin = f"{item.key} ({first.name} train, {item.label})"
    leaked = replace(second.test[0], content=item.content)
    told = f"1 test items are trained on: {leaked.key} ({second.name} test, {leaked.label}) = {origin}"
    assert check_stream(with_task(stream, replace(second, test=(leaked, *second.test[1:])))) == [told]
    again = replace(second.train[0], content=item.content)
    told = f"1 items are trained on in two tasks: {again.key} ({second.name} train, {again.label}) = {origin}"
    assert check_stream(with_task(stream, replace(second, train=(again, *second.train[1:])))) == [told]
    again = replace(second.train[0], key=item.key)
    told = f"1 keys are used more than once: {item.key} ({first.name} train and {second.name} train)"
    assert check_stream(with_task(stream, replace(second, train=(again, *second.train[1:])))) == [told]


def test_content_tested_on_in_two_tasks_is_found() -> None:
    pools = {name: Pool(make_examples("ab", 6, prefix=name)) for name in ("x", "y")}
    stream = build_dil("d", pools, order_seed=0, shots=2, test_per_class=2)
    first, second = stream.tasks
    again = replace(second.test[0], content=first.test[0].content)  # of one class, so only the places are named
    stream = with_task(stream, replace(second, test=(again, *second.test[1:])))
    pair = f"{again.key} ({second.name} test) = {first.test[0].key} ({first.name} test)"
    assert check_stream(stream) == [f"1 items are tested on in two tasks: {pair}"]


def test_empty_splits_and_strange_labels_are_found() -> None:
    stream = sound()
    first = stream.tasks[0]
    strange = replace(first.train[0], target="z")
    stream = with_task(stream, replace(first, train=(strange, *first.train[1:]), test=()))
    assert check_stream(stream) == [
        f"task {first.name}: training labels outside its classes: z",
        f"task {first.name}: no test examples",
    ]


def test_boxes_of_classes_that_are_not_taught_yet_are_found() -> None:
    def boxed(key: str, *categories: str) -> Example:
        return replace(make_examples("x", 1, key)[0], target=tuple(Box(name, (0, 0, 9, 9)) for name in categories))

    first = Task(1, "a", ("a",), ("a",), (boxed("1", "a", "b"),), (boxed("2", "a", "b"),), "detection")
    second = Task(2, "b", ("b",), ("a", "b"), (boxed("3", "a", "b"),), (boxed("4", "c"),), "detection")
    assert check_stream(TaskStream("s", "cil", 0, (first, second))) == [
        "task a: training boxes of classes not taught yet, or never: b",  # a test image may show what comes later
        "task b: test boxes of classes not taught yet, or never: c",
    ]


def test_an_image_of_boxes_may_be_tested_in_several_tasks_and_trained_on_in_one_only() -> None:
    def boxed(key: str, content: str = "") -> Example:
        return Example(key, (Box("a", (0, 0, 9, 9)), Box("b", (0, 0, 9, 9))), black, content or key)

    def found(shared: Example, again: Example) -> list[str]:
        first = Task(1, "a", ("a",), ("a", "b"), (boxed("1"),), (shared, boxed("2")), "detection")
        second = Task(2, "b", ("b",), ("a", "b"), (boxed("3"),), (again, boxed("4")), "detection")
        return check_stream(TaskStream("s", "cil", 0, (first, second)))

    assert found(boxed("5"), boxed("5")) == []
    assert found(boxed("5"), boxed("5", "other")) == ["1 keys are used more than once: 5 (a test and b test)"]
    assert found(boxed("5"), boxed("6", "5")) == ["1 items are tested on in two tasks: 6 (b test) = 5 (a test)"]
    assert found(boxed("6", "3"), boxed("6", "3")) == ["1 test items are trained on: 6 (a test) = 3 (b train)"]
    assert found(boxed("3"), boxed("5")) == [
        "1 keys are used more than once: 3 (a test and b train)",
        "1 test items are trained on: 3 (a test) = 3 (b train)",
    ]


def test_a_fingerprint_is_the_hash_of_key_target_and_content_lines_in_their_order() -> None:
    a, b = make_examples("ab", 1)
    boxed = replace(a, target=(Box("cat", (0, 1, 20, 30)), Box("dog", (4, 5, 6, 7))))
    asked = replace(a, target=Question("How many?", ("2", "two"), "relaxed_number"))
    for example, value in (
        (a, "a"),
        (boxed, [["cat", 0, 1, 20, 30], ["dog", 4, 5, 6, 7]]),
        (asked, ["How many?", "2", "two", "relaxed_number"]),
    ):
        line = json.dumps(["item/a/000", value, a.content]) + "\n"
        assert fingerprint([example]) == hashlib.sha256(line.encode()).hexdigest()
    assert fingerprint([a, b]) != fingerprint([b, a])
    found = fingerprints(sound())
    assert list(found) == ["task_01/train", "task_01/test", "task_02/train", "task_02/test"]
    assert len(set(found.values())) == 4


@pytest.mark.parametrize("split", ["train", "test"])
def test_inside_a_split_content_of_two_classes_is_found_and_copies_of_one_class_are_not(split: str) -> None:
    stream = sound()
    assert check_stream(stream) == []
    task = stream.tasks[0]
    items: tuple[Example, ...] = getattr(task, split)
    ours, same, *_ = [e for e in items if e.label == task.classes[0]]
    theirs = next(e for e in items if e.label == task.classes[1])

    def found(copy: Example) -> list[str]:
        changed: Any = {split: tuple(replace(e, content=ours.content) if e is copy else e for e in items)}
        return check_stream(with_task(stream, replace(task, **changed)))

    pair = f"{theirs.key} ({task.name} {split}, {theirs.label}) = {ours.key} ({task.name} {split}, {ours.label})"
    assert found(theirs) == [f"1 items have the content of an item of another class: {pair}"]
    assert found(same) == []
