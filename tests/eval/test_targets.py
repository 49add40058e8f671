"""Right answers of a stream, written, read and scored."""

import pytest

from eval.targets import answer_problems, right_answers
from task_streams.types import Box, Example, Question, Target, Task, TaskStream
from tests.task_streams.streams import black


def stream_of(*targets: Target, labels: tuple[str, ...] = ()) -> TaskStream:
    """One task whose training and test items have these targets."""
    items = tuple(Example(f"item/{number}", target, black, str(number)) for number, target in enumerate(targets))
    return TaskStream("own", "til", 0, (Task(1, "one", labels, labels, items, items),))


def problems(*targets: Target, labels: tuple[str, ...] = ()) -> str:
    return "\n".join(answer_problems(right_answers(stream_of(*targets, labels=labels))))


@pytest.mark.parametrize("tag", ["<think>", "</think>", "<answer>", "</answer>"])
def test_a_tag_of_the_reply_is_refused_in_every_kind_of_target(tag: str) -> None:
    name = f"a {tag} b"
    for target in (name, Question("?", (name,)), (Box(name, (1, 2, 3, 4)),)):
        told = problems("fine", target, labels=("fine", name))
        assert told.startswith("1 right answers would be scored as wrong") and f"it holds {tag}" in told
        assert "item/1" in told


@pytest.mark.parametrize(
    "name",
    ["x < 5 > y", "<b>bold</b>", "< answer >", "<Answer>", "a & b", "-10%", "5", "é", "ＡＢ", '"quoted" \\', "{label}"],
)
def test_what_is_no_tag_is_right_in_every_kind_of_target(name: str) -> None:
    rule = "relaxed_number" if name in ("-10%", "5") else "exact"
    targets = (name, Question("?", (name,), rule), (Box(name, (0, 0, 1000, 1000)), Box(name, (0, 0, 1000, 1000))))
    assert problems(*targets, labels=(name,)) == ""


def test_every_accepted_answer_is_looked_at_and_equal_answers_once() -> None:
    first, second = Question("?", ("two", "2")), Question("how many?", ("2", "a</think>"), "exact")
    assert [answer.target for answer in right_answers(stream_of(first, second, first))] == [
        Question("", (text,)) for text in ("two", "2", "a</think>")
    ]
    assert "'a</think>' of item/1" in problems(first, second)


def test_boxes_are_answers_to_the_classes_that_a_prompt_lists() -> None:
    boxes = (Box("cat", (1, 2, 3, 4)), Box("a<answer>", (1, 2, 3, 4)))
    assert problems(boxes, labels=("cat",)) == ""
    (answer,) = right_answers(stream_of(boxes, labels=("cat",)))
    assert answer.text.endswith('<answer>[{"category": "cat", "bbox": [1, 2, 3, 4]}]</answer>')


def test_a_thought_that_is_a_copy_of_the_prompts_example_is_refused() -> None:
    assert "is not read as a thought and this answer" in problems("your reasoning", labels=("your reasoning",))


def test_what_a_tokenizer_changes_is_refused_with_what_it_gives_back_where_the_score_differs() -> None:
    answers = right_answers(stream_of("a b", "c~d", labels=("a b", "c~d")))
    (told,) = answer_problems(answers, lambda texts: [text.replace("~", "") for text in texts])
    assert "1 right answers" in told and "'c~d' of item/1" in told
    assert "gives it back as '<think>it looks like cd</think><answer>cd</answer>'" in told
    assert answer_problems(answers, lambda texts: [text.replace(" b<", "  B<") for text in texts]) == []
