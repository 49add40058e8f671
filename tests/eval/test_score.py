"""One rule for reward and evaluation, and the reason why a prediction is wrong."""

import pytest

from eval.score import Failure, failure_kind, score
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
    judged = score(completion, "three", SEEN)
    assert (judged.correct, judged.format_ok, judged.reward) == (correct, format_ok, reward)


def test_without_thinking_the_answer_alone_earns_the_format_reward() -> None:
    assert score("<answer>three</answer>", "three", SEEN, prompt_style("suite", think=False)).reward == 2.0


def test_the_choice_is_the_listed_name_of_what_was_answered() -> None:
    assert score(reply("Great White"), "three", SEEN).choice == "great_white"


ONE_TASK = dict.fromkeys(TASK_OF, 1)  # domain-incremental: all tasks teach the same classes


@pytest.mark.parametrize(
    ("completion", "label", "task_of", "kind"),
    [
        (reply("three"), "three", TASK_OF, "none"),
        ("three", "three", TASK_OF, "format"),
        (reply("nine"), "three", TASK_OF, "outside_list"),
        (reply("Great-White"), "three", TASK_OF, "same_task"),  # three is of task 2 too
        (reply("five"), "three", TASK_OF, "newest_task"),  # stage 3 taught it
        (reply("one"), "three", TASK_OF, "other_task"),  # task 1, old and not the item's own
        ("<answer>one</answer>", "three", TASK_OF, "other_task"),  # malformed, but the answer is readable
        (reply("eight"), "five", TASK_OF, "same_task"),  # the newest task's class on its own items
        (reply("one"), "three", ONE_TASK, "same_task"),
    ],
)
def test_a_wrong_prediction_has_one_reason(completion: str, label: str, task_of: dict[str, int], kind: Failure) -> None:
    assert failure_kind(score(completion, label, SEEN), label, task_of, stage=3) == kind
