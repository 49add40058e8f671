import subprocess
import sys

import numpy as np
import pytest

from task_streams import STREAMS, build_stream
from task_streams.datasets.digits import DigitsCilConfig, DigitsDilConfig, digit_image, digits
from task_streams.errors import UserError
from task_streams.probes.glyphs import DIGITS
from task_streams.scenarios.domains import DOMAINS
from task_streams.scenarios.fingerprint import check_stream, fingerprints
from tests.task_streams.image_trees import problems_of

FINGERPRINT = (
    "import json; from task_streams import STREAMS, build_stream; "
    "from task_streams.scenarios.fingerprint import fingerprints; "
    "print(fingerprints(build_stream('digits_cil', STREAMS['digits_cil'].config(), 1993))['task_01/train'])"
)

RECORDED = "5880080cb5cad5fd184d54c0b00835cc0dc8fe18e46861ca76e0add60a526f87"


def test_all_1797_digits_are_there_and_no_two_are_equal() -> None:
    examples = digits()
    assert len(examples) == 1797
    assert len({example.content for example in examples}) == 1797
    # The first ten digits of the data set are 0 to 9.
    assert tuple(example.label for example in examples[:10]) == DIGITS


def test_a_digit_is_a_bright_stroke_on_black_at_64_pixels() -> None:
    image = digit_image(0)
    assert (image.mode, image.size) == ("RGB", (64, 64))
    pixels = np.asarray(image)
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels.max() > 200


@pytest.mark.parametrize(("tasks", "classes"), [(5, 2), (10, 1), (2, 5)])
def test_digits_cil_splits_ten_classes_into_disjoint_tasks(tasks: int, classes: int) -> None:
    stream = build_stream("digits_cil", DigitsCilConfig(tasks=tasks, classes_per_task=classes), 1993)
    assert [len(task.classes) for task in stream.tasks] == [classes] * tasks
    assert sorted(label for task in stream.tasks for label in task.classes) == sorted(DIGITS)
    assert [len(task.train) for task in stream.tasks] == [24 * classes] * tasks
    assert [len(task.test) for task in stream.tasks] == [40 * classes] * tasks
    assert check_stream(stream) == []
    assert stream.notes == ()


def test_digits_dil_shows_every_class_in_every_domain_and_no_digit_twice() -> None:
    config = DigitsDilConfig()
    stream = build_stream("digits_dil", config, 1993)
    assert sorted(task.name for task in stream.tasks) == sorted(config.domains)
    assert all(set(task.classes) == set(DIGITS) for task in stream.tasks)
    keys = [e.key for task in stream.tasks for e in (*task.train, *task.test)]
    # 5 domains x 10 classes x (12 training + 20 test); the scarcest class has 174 >= 5 x 32 digits.
    assert len(keys) == len(set(keys)) == 5 * 10 * 32
    assert check_stream(stream) == []
    assert stream.notes == ()


def test_the_fingerprint_of_the_default_stream_is_the_recorded_one() -> None:
    found = fingerprints(build_stream("digits_cil", DigitsCilConfig(), 1993))
    assert len(found) == 10  # 5 tasks, 2 splits
    assert found["task_01/train"] == RECORDED


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FINGERPRINT],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
    )
    assert done.stdout.strip() == RECORDED


def test_eleven_classes_of_ten_are_refused_with_every_other_problem_before_any_loading() -> None:
    assert problems_of(lambda: DigitsCilConfig(tasks=11, classes_per_task=1, shots=0, label_order="sortd")) == (
        "shots: got 0, expected a whole number from 1, or null.",
        "label_order: got 'sortd', expected sorted or appearance, or null. Did you mean 'sorted'?",
        "digits_cil: 11 classes asked (11 tasks), but there are 10; ask for fewer",
    )


def test_negative_counts_are_refused_as_such() -> None:
    assert problems_of(lambda: DigitsCilConfig(tasks=-6, classes_per_task=-2)) == (
        "tasks: got -6, expected a whole number from 1.",
        "classes_per_task: got -2, expected a whole number from 1.",
    )


def test_unknown_repeated_and_missing_domains_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown domain 'bluured'\. Did you mean 'blurred'\?"):
        DigitsDilConfig(domains=("clean", "bluured"))
    with pytest.raises(UserError, match="domain 'clean' is listed more than once"):
        DigitsDilConfig(domains=("clean", "clean"))
    with pytest.raises(UserError, match="domains is empty"):
        DigitsDilConfig(domains=())


def test_an_unknown_stream_and_an_impossible_seed_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown stream 'digit_cil'\. Did you mean 'digits_cil'\?"):
        build_stream("digit_cil", DigitsCilConfig(), 0)
    with pytest.raises(UserError, match="order_seed is -1; expected 0 to 4294967295"):
        build_stream("digits_cil", DigitsCilConfig(), -1)


def test_the_settings_of_another_stream_are_a_programming_error() -> None:
    with pytest.raises(TypeError, match="digits_cil takes DigitsCilConfig, not DigitsDilConfig"):
        build_stream("digits_cil", DigitsDilConfig(), 0)


def test_every_stream_says_what_it_is_and_whom_to_cite() -> None:
    for spec in STREAMS.values():
        assert spec.summary and spec.licence and spec.citation


@pytest.mark.parametrize("name", sorted(set(DOMAINS) - {"clean"}))
def test_a_domain_changes_the_image_and_always_in_the_same_way(name: str) -> None:
    plain = digit_image(7)
    before = np.asarray(plain).copy()
    once, again = DOMAINS[name].apply(plain, "digits/0007"), DOMAINS[name].apply(plain, "digits/0007")
    assert (once.mode, once.size) == ("RGB", (64, 64))
    assert np.array_equal(np.asarray(once), np.asarray(again))
    assert not np.array_equal(np.asarray(once), before)
    assert np.array_equal(np.asarray(plain), before)


def test_the_clean_domain_is_the_image_itself() -> None:
    plain = digit_image(7)
    assert np.array_equal(np.asarray(DOMAINS["clean"].apply(plain, "k")), np.asarray(plain))


@pytest.mark.parametrize("name", ["rotated", "noisy"])
def test_two_items_get_different_randomness(name: str) -> None:
    plain = digit_image(7)
    one, other = (np.asarray(DOMAINS[name].apply(plain, key)) for key in ("digits/0007", "digits/0008"))
    assert not np.array_equal(one, other)


def test_thick_strokes_have_more_ink_and_thin_ones_less() -> None:
    plain = digit_image(7)
    ink = {name: np.asarray(DOMAINS[name].apply(plain, "k")).mean() for name in ("clean", "thick", "thin")}
    assert ink["thin"] < ink["clean"] < ink["thick"]


def test_the_identity_of_a_domain_changes_with_its_strength() -> None:
    identities = {domain.identity for domain in DOMAINS.values()}
    assert len(identities) == len(DOMAINS)
    assert DOMAINS["clean"].identity == "clean=0.0"
