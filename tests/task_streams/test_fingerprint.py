import hashlib
from dataclasses import replace

from task_streams.draw import Pool
from task_streams.fingerprint import check_stream, fingerprint, fingerprints
from task_streams.split import build_cil
from task_streams.types import Task, TaskStream
from tests.task_streams.streams import make_examples


def sound() -> TaskStream:
    return build_cil("s", Pool(make_examples("abcd", 10)), sizes=(2, 2), order_seed=0, shots=3, test_per_class=2)


def with_task(stream: TaskStream, task: Task) -> TaskStream:
    tasks = tuple(task if old.index == task.index else old for old in stream.tasks)
    return replace(stream, tasks=tasks)


def test_a_fingerprint_is_the_hash_of_key_label_and_content_lines() -> None:
    example = make_examples("a", 1)[0]
    line = f'["item/a/000", "a", "{example.content}"]\n'
    assert fingerprint([example]) == hashlib.sha256(line.encode()).hexdigest()


def test_fingerprints_follow_content_label_and_order() -> None:
    a, b = make_examples("ab", 1)
    changed = [replace(a, content="0"), replace(a, label="b"), replace(a, key="k")]
    assert len({fingerprint([example]) for example in [a, *changed]}) == 4
    assert fingerprint([a, b]) != fingerprint([b, a])


def test_each_task_and_split_has_its_own_fingerprint() -> None:
    names = ["task_01/train", "task_01/test", "task_02/train", "task_02/test"]
    found = fingerprints(sound())
    assert list(found) == names
    assert len(set(found.values())) == 4


def test_a_sound_stream_has_no_problems() -> None:
    assert check_stream(sound()) == []


def test_a_test_item_with_the_content_of_a_training_item_is_found() -> None:
    stream = sound()
    first, second = stream.tasks
    leaked = replace(second.test[0], content=first.train[0].content)
    stream = with_task(stream, replace(second, test=(leaked, *second.test[1:])))
    place, origin = f"{leaked.key} ({second.name} test)", f"{first.train[0].key} ({first.name} train)"
    assert check_stream(stream) == [f"1 test items are trained on: {place} = {origin}"]


def test_a_key_in_two_tasks_is_found() -> None:
    stream = sound()
    first, second = stream.tasks
    again = replace(second.train[0], key=first.train[0].key)
    stream = with_task(stream, replace(second, train=(again, *second.train[1:])))
    where = f"{first.train[0].key} ({first.name} train and {second.name} train)"
    assert check_stream(stream) == [f"1 keys are used more than once: {where}"]


def test_content_trained_on_in_two_tasks_is_found() -> None:
    stream = sound()
    first, second = stream.tasks
    again = replace(second.train[0], content=first.train[0].content)
    stream = with_task(stream, replace(second, train=(again, *second.train[1:])))
    pair = f"{again.key} ({second.name} train) = {first.train[0].key} ({first.name} train)"
    assert check_stream(stream) == [f"1 items are trained on in two tasks: {pair}"]


def test_empty_splits_and_strange_labels_are_found() -> None:
    stream = sound()
    first = stream.tasks[0]
    strange = replace(first.train[0], label="z")
    stream = with_task(stream, replace(first, train=(strange, *first.train[1:]), test=()))
    assert check_stream(stream) == [
        f"task {first.name}: training labels outside its classes: z",
        f"task {first.name}: no test examples",
    ]
