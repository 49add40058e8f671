"""Draws, orders and splits of classes and domains, their fingerprints, and what check_stream finds."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from task_streams.errors import UserError
from task_streams.labels import label_problems, normalise_label
from task_streams.scenarios.draw import Drawn, Pool, Taker, draw_pools
from task_streams.scenarios.fingerprint import check_stream, fingerprint, fingerprints
from task_streams.scenarios.order_seeds import order_seeds
from task_streams.scenarios.split import build_cil, build_dil, class_order, deal, joint_task, task_name
from task_streams.types import Box, Example, Question, Task, TaskStream
from tests.task_streams.streams import black, make_examples, problems_of


def test_classes_short_of_shots_are_recorded_and_one_in_a_single_split_is_refused_with_its_name() -> None:
    pool = Pool((*make_examples("a", 30), *make_examples("b", 6)))
    drawn = draw(pool, 5, 4)
    # b has 6 items and 5 + 4 are wanted: max(6 // 2, 6 - 5) = 3 are held out, 3 are left to train on.
    assert (len(drawn.train["b"]), len(drawn.test["b"])) == (3, 3)
    assert drawn.notes == (
        "1 classes have fewer than 5 training examples: b 3",
        "1 classes have fewer than 4 test examples: b 3",
    )
    pool = Pool(make_examples("ab", 3, "train"), make_examples("bc", 3, "test"))
    assert problems_of(lambda: draw(pool, 1, 1)) == (
        "no training examples for 1 classes: c; add items, or use others",
        "no test examples for 1 classes: a; add items, or use others",
    )


def test_the_next_items_step_in_for_those_left_out_and_are_admitted_with_those_of_all_classes() -> None:
    items = {label: list(make_examples(label, 5)) for label in "abc"}
    damaged = {items["a"][0].key, items["a"][2].key, items["b"][1].key}
    asked: list[list[str]] = []

    def admit(batch: Sequence[Example]) -> list[Example | None]:
        asked.append([example.key[5:] for example in batch])
        return [None if example.key in damaged else example for example in batch]

    taken, rest = Taker(admit, distinct=False).take(items, {"a": 2, "b": 2, "c": 1})
    # a0 and b1 fail in the first round, so a2 and b2 are asked next; a2 fails too.
    assert asked == [["a/000", "a/001", "b/000", "b/001", "c/000"], ["a/002", "b/002"], ["a/003"]]
    assert [example.key[5:] for example in taken["a"] + taken["b"]] == ["a/001", "a/003", "b/000", "b/002"]
    assert [len(order) for order in rest.values()] == [1, 2, 4]


def test_a_copy_of_another_class_is_refused_unless_copies_are_skipped_and_one_of_its_own_class_noted() -> None:
    a, b = make_examples("ab", 8)[:8], make_examples("ab", 8)[8:]
    pool = Pool((*a, replace(b[0], content=a[0].content), *b[1:]))
    (problem,) = problems_of(lambda: draw(pool, None, None))
    assert problem.startswith("1 items have the content of an item of another class: ")
    assert "item/a/000 (a)" in problem and "item/b/000 (b)" in problem
    drawn = draw(pool, None, None, distinct=True)
    assert drawn.notes[0].startswith("1 items left out, copies of others: ")
    train = make_examples("a", 3)
    copy = replace(train[1], content=train[0].content)
    drawn = draw(Pool((train[0], copy), make_examples("a", 1, "test")), None, None)
    assert len(drawn.train["a"]) == 2
    assert drawn.notes[0].startswith("1 items are copies of others, and kept: item/a/00")


def test_pools_share_what_was_taken_tests_first_and_by_name_when_copies_are_left_out() -> None:
    same = make_examples("a", 1, "one")[0].content

    def examples(count: int, prefix: str, copied: bool = True) -> tuple[Example, ...]:
        first, *rest = make_examples("a", count, prefix)
        return replace(first, content=same) if copied else first, *rest

    pools = {name: Pool(examples(4, name), examples(2, f"{name}-test", copied=name == "y")) for name in ("y", "x")}
    drawn = draw_pools(pools, None, None, 42, distinct=True)
    assert list(drawn) == ["y", "x"]
    assert [(len(drawn[name].train["a"]), len(drawn[name].test["a"])) for name in "xy"] == [(3, 2), (3, 2)]
    for name in "xy":
        told = f"1 items left out, copies of others: {name}/a/000 (a) = y-test/a/000 (a)"
        assert drawn[name].notes == (told,)


def draw(pool: Pool, shots: int | None, test_per_class: int | None, seed: int = 42, distinct: bool = False) -> Drawn:
    """The draw of one pool."""
    return draw_pools({"": pool}, shots, test_per_class, seed, distinct=distinct)[""]


def test_a_draw_depends_on_its_seed_and_neither_on_listing_order_nor_on_other_classes() -> None:
    def trained(examples: Sequence[Example], shots: int, seed: int = 42) -> tuple[Example, ...]:
        """What is drawn to train on of class b from a source with a test split."""
        test = make_examples({e.label for e in examples}, 1, prefix="test")
        return draw(Pool(examples, test), shots, None, seed).train["b"]

    examples = make_examples("abc", 40)
    alone = trained(make_examples("b", 40), 8)
    assert alone == trained(tuple(reversed(examples)), 8)
    assert len({example.key for example in alone}) == 8
    assert alone != trained(examples, 8, seed=1)
    assert alone[:3] == trained(examples, 3)  # fewer shots are a part of more


def test_test_items_are_held_out_one_fifth_of_all_and_stay_the_same_whatever_the_shots() -> None:
    pool = Pool(make_examples("ab", 30))
    few, many, everything = draw(pool, 2, 10), draw(pool, 20, 10), draw(pool, None, None)
    assert few.test == many.test
    for label in "ab":
        assert len(few.test[label]) == 10
        assert not {e.key for e in many.train[label]} & {e.key for e in many.test[label]}
        assert (len(everything.train[label]), len(everything.test[label])) == (24, 6)
    test = make_examples("ab", 7, prefix="test")
    own = draw(Pool(make_examples("ab", 9, prefix="train"), test), 5, None)  # a source with a test split keeps it
    assert {e.key for label in "ab" for e in own.test[label]} == {e.key for e in test}
    assert all(e.key.startswith("train/") for e in own.train["a"])


def test_copies_are_left_out_and_a_class_with_too_few_good_items_gets_what_there_is() -> None:
    a, b = make_examples("ab", 1)
    copy = replace(make_examples("b", 1, prefix="zcopy")[0], content=a.content)
    taker = Taker(list, distinct=True)
    taken, rest = taker.take({"a": [a], "b": [b, copy]}, {"a": 1, "b": 2})
    assert taken == {"a": (a,), "b": (b,)}
    assert rest == {"a": [], "b": []}
    assert taker.copies == taker.conflicts == ["zcopy/b/000 (b) = item/a/000 (a)"]
    taken, rest = Taker(lambda batch: [None] * len(batch), distinct=False).take({"a": make_examples("a", 3)}, {"a": 2})
    assert (taken, rest) == ({"a": ()}, {"a": ()})


LETTERS = ("a", "b", "c", "d", "e", "f")


def cil(seed: int = 0, **changes: Any) -> TaskStream:
    settings: dict[str, Any] = {"sizes": (2, 2, 2), "shots": 3, "test_per_class": 2} | changes
    return build_cil("letters", Pool(make_examples(LETTERS, 10)), order_seed=seed, **settings)


@pytest.mark.parametrize("label_order", ["sorted", "appearance"])
def test_tasks_take_consecutive_classes_of_the_order_and_prompts_list_those_seen_so_far(label_order: str) -> None:
    order = class_order(LETTERS, 3)
    stream = cil(3, sizes=(3, 1, 2), label_order=label_order)
    assert [task.classes for task in stream.tasks] == [order[0:3], order[3:4], order[4:6]]
    assert [task.index for task in stream.tasks] == [1, 2, 3]
    seen = [order[:3], order[:4], order]
    assert [task.seen for task in stream.tasks] == [tuple(sorted(s)) if label_order == "sorted" else s for s in seen]
    with pytest.raises(AttributeError):
        stream.name = "other"  # type: ignore[misc]


def test_the_same_examples_are_drawn_for_every_class_order_and_the_joint_task_is_their_union() -> None:
    stream = cil(seed=1)
    joint = joint_task(stream)
    assert set(joint.seen) == set(LETTERS)
    assert joint.train == tuple(e for task in stream.tasks for e in task.train)
    assert joint.classes == class_order(LETTERS, 1)
    drawn = [{e.key for task in cil(seed).tasks for e in task.train} for seed in (0, 1, 2)]
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(drawn[0]) == 6 * 3  # 6 classes, 3 shots


def test_labels_are_compared_without_case_and_separators_and_ones_that_read_the_same_or_too_many_refused() -> None:
    assert normalise_label("  Great_White-Shark.\n v2 ") == "great white shark v2"
    assert normalise_label("great white") != normalise_label("greatwhite")
    # an accent behind its letter or within it, a sharp s, wide letters and the narrow ones
    assert normalise_label("Re\u0301SUME\u0301") == normalise_label("résumé") != normalise_label("resume")
    assert normalise_label("Straße") == normalise_label("STRASSE")
    assert normalise_label("ＣＡＴ　２") == "cat 2"
    problems = label_problems(["great_white", "Great White", "-.-", "tern"])
    assert len(problems) == 2
    assert "'-.-'" in problems[0]
    assert "'Great White', 'great_white'" in problems[1]
    assert "4 of 6 classes are used" in cil(sizes=(2, 2)).notes
    told = "letters: 8 classes asked (2 tasks), but there are 6; ask for fewer"
    assert problems_of(lambda: cil(sizes=(4, 4))) == (told,)
    pool = Pool(make_examples(("Big_Ox", "big ox", "___"), 4))
    assert problems_of(lambda: build_cil("x", pool, sizes=(1,), order_seed=0, shots=1, test_per_class=1)) == (
        "class name '___' has no letters or digits left to answer with",
        "classes 'Big_Ox', 'big ox' all read 'big ox' in an answer; rename all but one of them",
    )


def test_domains_are_tasks_with_all_classes_in_a_seeded_or_the_given_order_and_share_no_item_unless_asked() -> None:
    pools = {name: Pool(make_examples(LETTERS, 10, prefix=name, domain=name)) for name in ("photo", "art")}
    stream = build_dil("d", pools, order_seed=0, shots=3, test_per_class=2)
    # RandomState(0).permutation(2) is [1 0]; the sorted names are art, photo.
    assert [task.name for task in stream.tasks] == ["photo", "art"]
    assert all(task.classes == LETTERS and task.seen == LETTERS for task in stream.tasks)
    assert all({e.domain for e in (*task.train, *task.test)} == {task.name} for task in stream.tasks)
    pools = {name: Pool(make_examples(LETTERS[: 5 if name == "a" else 6], 4, prefix=name)) for name in "cab"}
    stream = build_dil("d", pools, order_seed=5, shots=1, test_per_class=1, seeded_order=False)
    assert [task.name for task in stream.tasks] == ["c", "a", "b"]
    assert stream.notes == ("a: no examples of 1 classes: f",)
    pools = {name: Pool(make_examples(LETTERS, 10, domain=name)) for name in ("x", "y")}
    keys = [{e.key for e in pool.train} for pool in deal(pools, seed=42).values()]
    assert keys[0] & keys[1] == set()
    assert [len(found) for found in keys] == [30, 30]  # 6 classes of 10 items, half of each class to each domain
    stream = build_dil("d", pools, order_seed=0, shots=None, test_per_class=1, disjoint=False)
    assert [len(task.train) + len(task.test) for task in stream.tasks] == [60, 60]


def test_orders_of_classes_are_published_permutations_with_the_papers_seeds() -> None:
    # RandomState(0).permutation(3) is [2 1 0]; the sorted names are a, b, c.
    assert class_order(("b", "c", "a"), seed=0) == ("c", "b", "a")
    # RandomState(1993).permutation(10) is [4 2 7 6 0 3 5 8 9 1]; the names sort like their numbers.
    assert "".join(class_order("9876543210", seed=1993)) == "4276035891"
    # The same over the sorted words eight five four nine one seven six three two zero.
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert class_order(words, seed=1993)[:4] == ("one", "four", "three", "six")
    assert task_name(("three", "eight")) == "three+eight"
    assert task_name(tuple(f"class {i}" for i in range(20))) == "class 0+19 more"
    assert order_seeds("rapo_image") == order_seeds("rapo_video") == (1990, 1993, 1996)
    assert order_seeds("rapo_detection_5") == (136, 377, 639)
    assert order_seeds("rapo_detection_10") == (277, 305, 738)
    with pytest.raises(UserError, match=r"unknown preset of order seeds 'rapo_images'\. Did you mean 'rapo_image'\?"):
        order_seeds("rapo_images")


def sound() -> TaskStream:
    return build_cil("s", Pool(make_examples("abcd", 10)), sizes=(2, 2), order_seed=0, shots=3, test_per_class=2)


def with_task(stream: TaskStream, task: Task) -> TaskStream:
    tasks = tuple(task if old.index == task.index else old for old in stream.tasks)
    return replace(stream, tasks=tasks)


def test_keys_and_contents_that_come_again_in_another_task_are_found() -> None:
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
    pools = {name: Pool(make_examples("ab", 6, prefix=name)) for name in ("x", "y")}
    stream = build_dil("d", pools, order_seed=0, shots=2, test_per_class=2)
    first, second = stream.tasks
    again = replace(second.test[0], content=first.test[0].content)  # of one class, so only the places are named
    stream = with_task(stream, replace(second, test=(again, *second.test[1:])))
    pair = f"{again.key} ({second.name} test) = {first.test[0].key} ({first.name} test)"
    assert check_stream(stream) == [f"1 items are tested on in two tasks: {pair}"]


def boxed(key: str, *categories: str, content: str = "") -> Example:
    return Example(key, tuple(Box(name, (0, 0, 9, 9)) for name in categories), black, content or key)


def test_empty_splits_strange_labels_and_boxes_of_classes_that_are_not_taught_yet_are_found() -> None:
    stream = sound()
    first = stream.tasks[0]
    strange = replace(first.train[0], target="z")
    stream = with_task(stream, replace(first, train=(strange, *first.train[1:]), test=()))
    assert check_stream(stream) == [
        f"task {first.name}: training labels outside its classes: z",
        f"task {first.name}: no test examples",
    ]
    one = Task(1, "a", ("a",), ("a",), (boxed("1", "a", "b"),), (boxed("2", "a", "b"),), "detection")
    two = Task(2, "b", ("b",), ("a", "b"), (boxed("3", "a", "b"),), (boxed("4", "c"),), "detection")
    assert check_stream(TaskStream("s", "cil", 0, (one, two))) == [
        "task a: training boxes of classes not taught yet, or never: b",  # a test image may show what comes later
        "task b: test boxes of classes not taught yet, or never: c",
    ]


def test_an_image_of_boxes_may_be_tested_in_several_tasks_and_trained_on_in_one_only() -> None:
    def both(key: str, content: str = "") -> Example:
        return boxed(key, "a", "b", content=content)

    def found(shared: Example, again: Example) -> list[str]:
        first = Task(1, "a", ("a",), ("a", "b"), (both("1"),), (shared, both("2")), "detection")
        second = Task(2, "b", ("b",), ("a", "b"), (both("3"),), (again, both("4")), "detection")
        return check_stream(TaskStream("s", "cil", 0, (first, second)))

    assert found(both("5"), both("5")) == []
    assert found(both("5"), both("5", "other")) == ["1 keys are used more than once: 5 (a test and b test)"]
    assert found(both("5"), both("6", "5")) == ["1 items are tested on in two tasks: 6 (b test) = 5 (a test)"]
    assert found(both("6", "3"), both("6", "3")) == ["1 test items are trained on: 6 (a test) = 3 (b train)"]
    assert found(both("3"), both("5")) == [
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
