from typing import Any

import pytest

from task_streams.errors import UserError
from task_streams.labels import label_problems, normalise_label
from task_streams.scenarios.draw import Pool
from task_streams.scenarios.order_seeds import order_seeds
from task_streams.scenarios.split import build_cil, build_dil, class_order, deal, joint_task, task_name
from task_streams.types import TaskStream
from tests.task_streams.image_trees import problems_of
from tests.task_streams.streams import make_examples

LETTERS = ("a", "b", "c", "d", "e", "f")


def cil(seed: int = 0, **changes: Any) -> TaskStream:
    settings: dict[str, Any] = {"sizes": (2, 2, 2), "shots": 3, "test_per_class": 2} | changes
    return build_cil("letters", Pool(make_examples(LETTERS, 10)), order_seed=seed, **settings)


def test_class_order_is_the_published_permutation_of_the_sorted_names() -> None:
    # RandomState(0).permutation(3) is [2 1 0]; the sorted names are a, b, c.
    assert class_order(("b", "c", "a"), seed=0) == ("c", "b", "a")
    # RandomState(1993).permutation(10) is [4 2 7 6 0 3 5 8 9 1]; the names sort like their numbers.
    assert "".join(class_order("9876543210", seed=1993)) == "4276035891"
    # The same over the sorted words eight five four nine one seven six three two zero.
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert class_order(words, seed=1993)[:4] == ("one", "four", "three", "six")


def test_task_names_stay_short_and_distinct() -> None:
    assert task_name(("three", "eight")) == "three+eight"
    assert task_name(tuple(f"class {i}" for i in range(20))) == "class 0+19 more"


def test_each_domain_is_a_task_with_all_classes() -> None:
    pools = {name: Pool(make_examples(LETTERS, 10, prefix=name, domain=name)) for name in ("photo", "art")}
    stream = build_dil("d", pools, order_seed=0, shots=3, test_per_class=2)
    # RandomState(0).permutation(2) is [1 0]; the sorted names are art, photo.
    assert [task.name for task in stream.tasks] == ["photo", "art"]
    assert all(task.classes == LETTERS and task.seen == LETTERS for task in stream.tasks)
    assert all({e.domain for e in (*task.train, *task.test)} == {task.name} for task in stream.tasks)


def test_the_joint_task_is_the_union_with_all_classes_listed() -> None:
    stream = cil(seed=1)
    joint = joint_task(stream)
    assert set(joint.seen) == set(LETTERS)
    assert joint.train == tuple(e for task in stream.tasks for e in task.train)
    assert joint.classes == class_order(LETTERS, 1)


def test_labels_are_compared_without_case_and_separators() -> None:
    assert normalise_label("  Great_White-Shark.\n v2 ") == "great white shark v2"
    assert normalise_label("great white") != normalise_label("greatwhite")


def test_labels_that_read_the_same_are_named_together_and_empty_ones_apart() -> None:
    problems = label_problems(["great_white", "Great White", "-.-", "tern"])
    assert len(problems) == 2
    assert "'-.-'" in problems[0]
    assert "'Great White', 'great_white'" in problems[1]


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


def test_the_same_examples_are_drawn_for_every_class_order() -> None:
    drawn = [{e.key for task in cil(seed).tasks for e in task.train} for seed in (0, 1, 2)]
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(drawn[0]) == 6 * 3  # 6 classes, 3 shots


def test_unused_classes_are_recorded_and_too_many_or_ones_that_read_the_same_refused() -> None:
    assert "4 of 6 classes are used" in cil(sizes=(2, 2)).notes
    told = "letters: 8 classes asked (2 tasks), but there are 6; ask for fewer"
    assert problems_of(lambda: cil(sizes=(4, 4))) == (told,)
    pool = Pool(make_examples(("Big_Ox", "big ox", "___"), 4))
    assert problems_of(lambda: build_cil("x", pool, sizes=(1,), order_seed=0, shots=1, test_per_class=1)) == (
        "class name '___' has no letters or digits left to answer with",
        "classes 'Big_Ox', 'big ox' all read 'big ox' in an answer; rename all but one of them",
    )


def test_the_domain_order_can_be_given_and_a_domain_without_some_class_is_recorded() -> None:
    pools = {name: Pool(make_examples(LETTERS[: 5 if name == "a" else 6], 4, prefix=name)) for name in "cab"}
    stream = build_dil("d", pools, order_seed=5, shots=1, test_per_class=1, seeded_order=False)
    assert [task.name for task in stream.tasks] == ["c", "a", "b"]
    assert stream.notes == ("a: no examples of 1 classes: f",)


def test_an_item_that_domains_share_is_dealt_to_one_of_them_or_stays_in_every_one_when_asked() -> None:
    pools = {name: Pool(make_examples(LETTERS, 10, domain=name)) for name in ("x", "y")}
    keys = [{e.key for e in pool.train} for pool in deal(pools, seed=42).values()]
    assert keys[0] & keys[1] == set()
    assert [len(found) for found in keys] == [30, 30]  # 6 classes of 10 items, half of each class to each domain
    stream = build_dil("d", pools, order_seed=0, shots=None, test_per_class=1, disjoint=False)
    assert [len(task.train) + len(task.test) for task in stream.tasks] == [60, 60]


def test_rapos_order_seeds_are_those_of_the_paper() -> None:
    assert order_seeds("rapo_image") == order_seeds("rapo_video") == (1990, 1993, 1996)
    assert order_seeds("rapo_detection_5") == (136, 377, 639)
    assert order_seeds("rapo_detection_10") == (277, 305, 738)
    with pytest.raises(UserError, match=r"unknown preset of order seeds 'rapo_images'\. Did you mean 'rapo_image'\?"):
        order_seeds("rapo_images")
