"""One rule for reward and evaluation, and the reason why a prediction is wrong."""

import pytest

from eval.score import Failure, failure_kind, score_classification
from task_streams.prompt_style import prompt_style

SEEN = ("eight", "five", "great_white", "one", "three", "two")
TASK_OF = {"one": 1, "two": 1, "three": 2, "great_white": 2, "five": 3, "eight": 3}


def reply(answer: str) -> str:
    return f"<think>a</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("completion", "correct", "format_ok", "reward"),
    [
        (reply("three"), True, True, 2.0),
        (reply("Three."), True, True, 2.0),  # "three." -> "three " -> "three"
        (reply("two"), False, True, 1.0),
        ("<answer>three</answer>", True, False, 1.0),
        ("three", False, False, 0.0),  # cannot be parsed: 0, not "no score"
        (reply(""), False, True, 1.0),
        (reply("three eight"), False, True, 1.0),  # exact match, not containment
    ],
)
def test_reward_is_correct_plus_format(completion: str, correct: bool, format_ok: bool, reward: float) -> None:
    score = score_classification(completion, "three", SEEN)
    assert (score.correct, score.format_ok, score.reward) == (correct, format_ok, reward)


def test_without_thinking_the_answer_alone_earns_the_format_reward() -> None:
    assert (
        score_classification("<answer>three</answer>", "three", SEEN, prompt_style("suite", think=False)).reward == 2.0
    )


def test_the_choice_is_the_listed_name_of_what_was_answered() -> None:
    assert score_classification(reply("Great White"), "three", SEEN).choice == "great_white"


@pytest.mark.parametrize(
    ("completion", "kind"),
    [
        (reply("three"), "none"),
        ("three", "format"),
        (reply("nine"), "outside_list"),
        (reply("Great-White"), "same_task"),  # three is of task 2 too
        (reply("five"), "newest_task"),  # stage 3 taught it
        (reply("one"), "other_task"),  # task 1, old and not the item's own
        ("<answer>one</answer>", "other_task"),  # malformed, but the answer is readable
    ],
)
def test_a_wrong_prediction_has_one_reason(completion: str, kind: Failure) -> None:
    score = score_classification(completion, "three", SEEN)
    assert failure_kind(score, "three", TASK_OF, stage=3) == kind


def test_a_wrong_class_of_the_newest_task_on_its_own_items_is_of_the_same_task() -> None:
    score = score_classification(reply("eight"), "five", SEEN)
    assert failure_kind(score, "five", TASK_OF, stage=3) == "same_task"


def test_when_all_tasks_teach_the_same_classes_every_mix_up_is_of_the_same_task() -> None:
    # Domain-incremental: task_of is 1 for every class, at stage 3 too.
    score = score_classification(reply("one"), "three", SEEN)
    assert failure_kind(score, "three", dict.fromkeys(TASK_OF, 1), stage=3) == "same_task"
