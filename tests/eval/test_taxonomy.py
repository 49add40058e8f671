"""What kind of forgetting, from single predictions: every expected number follows by hand."""

from collections.abc import Sequence

import pytest

from eval.evaluate import Prediction
from eval.matrix import AccuracyMatrix
from eval.metrics import compute_metrics
from eval.score import failure_kind, score
from eval.taxonomy import (
    KINDS,
    OUTCOME_TITLES,
    OUTCOMES,
    Change,
    change,
    change_metrics,
    confusion,
    outcomes,
    shares,
    undivided,
)
from task_streams.errors import UserError

CLASSES = (("whale", "shark"), ("killer whale", "ray"), ("eel", "cod"))
TASK_OF = {name: index for index, part in enumerate(CLASSES, start=1) for name in part}
NAMES = tuple(TASK_OF)


def answer(completion: str, label: str = "whale", key: str = "1", stage: int = 3) -> Prediction:
    """A completion judged as the evaluator judges it, at the end of the stream."""
    judged = score(completion, label, NAMES)
    failure = failure_kind(judged, label, TASK_OF, stage)
    return Prediction(stage, TASK_OF[label], key, label, completion, judged.answer, judged.correct, failure)


def reply(chosen: str, thought: str = "hm") -> str:
    return f"<think>{thought}</think><answer>{chosen}</answer>"


RIGHT = reply("whale")


def test_outcomes_of_a_cell_sum_to_one_and_confusion_counts_answers_by_tasks() -> None:
    given = [RIGHT, reply("shark"), reply("ray"), reply("eel"), reply("crab"), "hm"]
    assert outcomes(map(answer, given)) == {
        "none": 1, "same_task": 1, "wrong": 0, "other_task": 1, "newest_task": 1, "outside_list": 1, "format": 1
    }  # fmt: skip
    assert set(OUTCOMES) == set(OUTCOME_TITLES) and len(OUTCOMES) == 7
    found = shares(outcomes([answer(RIGHT), answer("hm"), answer("hm"), answer(reply("eel"))]))
    assert (found["none"], found["format"], found["newest_task"], sum(found.values())) == (0.25, 0.5, 0.25, 1.0)
    with pytest.raises(ValueError, match="undefined"):
        shares(outcomes([]))
    given = [answer(RIGHT), answer(reply("Killer_Whale")), answer(reply("cod")), answer(reply("crab")), answer("hm")]
    given += [answer(reply("ray"), "ray"), answer(reply("shark"), "eel")]
    # columns: task 1, 2, 3, outside of the list, no answer
    assert confusion(given, CLASSES).tolist() == [[1, 1, 1, 1, 1], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
    strange = Prediction(3, 1, "k", "crab", "", None, False, "format")
    with pytest.raises(UserError, match="'k': 'crab' is no class of the stream"):
        confusion([strange], CLASSES)


@pytest.mark.parametrize(
    ("classes", "measure", "reason"),
    [
        (CLASSES, "accuracy", None),
        (CLASSES, "box AP", "an answer is boxes of several classes, not one class"),
        (((), ()), "accuracy", "answers to questions of their own are no classes"),
        ((("a", "b"), ("b", "c")), "accuracy", "several tasks teach the same classes, e.g. 'b'"),
    ],
)
def test_tasks_are_told_by_the_class_of_an_answer_only_where_each_class_has_one_task(
    classes: Sequence[Sequence[str]], measure: str, reason: str | None
) -> None:
    assert undivided(classes, measure) == reason


@pytest.mark.parametrize(
    ("completion", "kind"),
    [
        ("it is a whale", "lost_format"),
        (reply("a whale"), "lost_outside"),
        (reply("eel", "it looks like a Whale."), "lost_named"),
        (reply("eel") + " or whale", "lost_named"),
        (reply("eel", "it is no whaler"), "lost_essential"),  # not a whole word
        (reply("eel", "a killer-whale"), "lost_essential"),  # part of another class's name
        (reply("eel", "killer whale or whale"), "lost_named"),
        (reply("killer whale"), "lost_essential"),  # the answer itself does not count as beside it
        (reply("shark"), "lost_essential"),
    ],
)
def test_a_lost_item_is_superficial_where_the_form_is_gone_or_the_right_class_is_named(
    completion: str, kind: str
) -> None:
    lost = change([answer(RIGHT)], [answer(completion)], NAMES)
    parts = {part: getattr(lost, part) for part in ("lost_format", "lost_outside", "lost_named", "lost_essential")}
    assert parts == {**dict.fromkeys(parts, 0), kind: 1}
    assert lost.lost_newest == int("<answer>eel" in completion)  # however it was lost


def test_only_what_was_right_is_lost_and_only_what_was_wrong_is_gained() -> None:
    before = [answer(text, key=str(n)) for n, text in enumerate([RIGHT, RIGHT, reply("eel"), reply("eel")])]
    after = [answer(text, key=str(n)) for n, text in enumerate([RIGHT, reply("eel"), RIGHT, "hm"])]
    assert change(before, list(reversed(after)), NAMES) == Change(4, 0, 0, 0, 1, 1, 1)  # paired by key, in any order
    for other in ([answer(RIGHT, key="2")], [answer(RIGHT), answer(RIGHT)], []):
        with pytest.raises(UserError, match="expected the same items"):
            change([answer(RIGHT)], other, NAMES)
    # the right answer to a question is not looked for in the text
    asked = Prediction(1, 1, "q", "a", "<answer>a</answer>", "a", True, "none")
    again = Prediction(2, 1, "q", "a", "<think>a dog</think><answer>b</answer>", "b", False, "wrong")
    assert change([asked], [again], ()).lost_essential == 1


def test_the_metrics_are_means_over_old_tasks_or_undefined_with_a_reason() -> None:
    # Task 1, 8 items: 1 by form, 1 outside, 1 named, 3 essential, 2 to the newest, 1 gained; task 2, 4 items: 2, 1.
    changes = {1: Change(8, 1, 1, 1, 3, 2, 1), 2: Change(4, 0, 0, 0, 2, 2, 1)}
    values = {key: value.value for key, value in change_metrics(changes, 3).items()}
    # (3/8 + 0)/2, (3/8 + 2/4)/2, (1/8 + 1/4)/2, (2 + 2)/(6 + 2)
    expected = {"forgetting_superficial": 0.1875, "forgetting_essential": 0.4375, "gained": 0.1875}
    assert values == {**expected, "lost_to_newest": 0.5}
    nothing = {1: Change(4, 0, 0, 0, 0, 0, 0)}
    found = change_metrics(nothing, 2)
    assert [found[key].value for key in KINDS] == [0, 0, 0, None]
    assert found["lost_to_newest"].reason == "nothing was lost"
    assert change_metrics(nothing, 2, "one list")["lost_to_newest"].reason == "one list"
    assert {value.reason for value in change_metrics({}, 1).values()} == {"needs at least two tasks"}
    missing = change_metrics(nothing, 3)["gained"].reason
    assert missing == "not evaluated: the items of every task j < T right after learning it and after task T"
    unread = compute_metrics(AccuracyMatrix.empty(["a"]), KINDS)
    assert {value.reason for value in unread.values()} == {"not in the matrix: it is read from single predictions"}
