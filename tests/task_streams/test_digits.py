from typing import Any

import numpy as np
import pytest

from task_streams import STREAMS, build_stream
from task_streams.datasets.digits import DigitsCilConfig, DigitsDilConfig, digit_image, digits
from task_streams.errors import UserError
from task_streams.probes.glyphs import DIGITS
from task_streams.scenarios.domains import DOMAINS
from task_streams.scenarios.fingerprint import check_stream, fingerprints
from tests.task_streams.streams import problems_of, sizes

RECORDED = "5880080cb5cad5fd184d54c0b00835cc0dc8fe18e46861ca76e0add60a526f87"


@pytest.mark.parametrize(("tasks", "classes"), [(5, 2), (10, 1), (2, 5)])
def test_digits_cil_splits_ten_classes_into_disjoint_tasks(tasks: int, classes: int) -> None:
    stream = build_stream("digits_cil", DigitsCilConfig(tasks=tasks, classes_per_task=classes), 1993)
    assert [len(task.classes) for task in stream.tasks] == [classes] * tasks
    assert sorted(label for task in stream.tasks for label in task.classes) == sorted(DIGITS)
    assert (sizes(stream), stream.notes) == ([(24 * classes, 40 * classes)] * tasks, ())
    if tasks == 5:
        assert fingerprints(stream)["task_01/train"] == RECORDED


def test_digits_dil_shows_every_class_in_every_domain_and_no_digit_twice() -> None:
    config = DigitsDilConfig()
    stream = build_stream("digits_dil", config, 1993)
    assert sorted(task.name for task in stream.tasks) == sorted(config.domains)
    assert all(set(task.classes) == set(DIGITS) for task in stream.tasks)
    keys = [e.key for task in stream.tasks for e in (*task.train, *task.test)]
    # 5 domains x 10 classes x (12 training + 20 test); the scarcest class has 174 >= 5 x 32 digits.
    assert len(keys) == len(set(keys)) == 5 * 10 * 32
    assert (check_stream(stream), stream.notes) == ([], ())


def test_unknown_streams_and_impossible_settings_and_seeds_are_refused_before_any_loading() -> None:
    wrong: dict[str, Any] = {"tasks": 11, "classes_per_task": 1, "shots": 0, "label_order": "sortd"}
    assert problems_of(lambda: DigitsCilConfig(**wrong)) == (
        "shots: got 0, expected a whole number from 1, or null.",
        "label_order: got 'sortd', expected sorted or appearance, or null. Did you mean 'sorted'?",
        "digits_cil: 11 classes asked (11 tasks), but there are 10; ask for fewer",
    )
    assert problems_of(lambda: DigitsCilConfig(tasks=-6, classes_per_task=-2)) == (
        "tasks: got -6, expected a whole number from 1.",
        "classes_per_task: got -2, expected a whole number from 1.",
    )
    for domains, said in (
        (("clean", "bluured"), "unknown domain 'bluured'. Did you mean 'blurred'?"),
        (("clean", "clean"), "domain 'clean' is listed more than once"),
        ((), "domains is empty"),
    ):
        assert said in problems_of(lambda domains=domains: DigitsDilConfig(domains=domains))[0]
    with pytest.raises(UserError, match=r"unknown stream 'digit_cil'\. Did you mean 'digits_cil'\?"):
        build_stream("digit_cil", DigitsCilConfig(), 0)
    with pytest.raises(UserError, match="order_seed is -1; expected 0 to 4294967295"):
        build_stream("digits_cil", DigitsCilConfig(), -1)
    with pytest.raises(TypeError, match="digits_cil takes DigitsCilConfig, not DigitsDilConfig"):
        build_stream("digits_cil", DigitsDilConfig(), 0)
    assert all(spec.summary and spec.licence and spec.citation for spec in STREAMS.values())


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_a_domain_changes_the_image_always_in_the_same_way_and_leaves_the_given_one(name: str) -> None:
    plain = digit_image(7)
    before = np.asarray(plain).copy()
    once, again, other = (DOMAINS[name].apply(plain, f"digits/{key}") for key in ("0007", "0007", "0008"))
    assert (once.mode, once.size) == ("RGB", (64, 64))
    assert np.array_equal(np.asarray(once), np.asarray(again))
    assert np.array_equal(np.asarray(once), before) == (name == "clean")
    random = name in ("rotated", "tilted", "noisy", "occluded", "small")  # another item, another randomness
    assert np.array_equal(np.asarray(once), np.asarray(other)) != random
    assert np.array_equal(np.asarray(plain), before)
    assert DOMAINS[name].identity == f"{name}={DOMAINS[name].strength}"


def test_all_1797_digits_are_there_no_two_are_equal_and_thick_strokes_have_more_ink_than_thin_ones() -> None:
    examples = digits()
    assert len(examples) == len({example.content for example in examples}) == 1797
    # The first ten digits of the data set are 0 to 9.
    assert tuple(example.label for example in examples[:10]) == DIGITS
    pixels = np.asarray(image := digit_image(0))
    assert (image.mode, image.size) == ("RGB", (64, 64))
    assert pixels[0, 0].tolist() == [0, 0, 0] and pixels.max() > 200  # a bright stroke on black
    plain = digit_image(7)
    ink = {name: np.asarray(DOMAINS[name].apply(plain, "k")).mean() for name in ("clean", "thick", "thin")}
    assert ink["thin"] < ink["clean"] < ink["thick"]
