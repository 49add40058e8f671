"""Scores in every prompt style: right answers earn all there is, copies of the prompt and second answers nothing."""

import pytest

from eval.parse import parse_completion
from eval.score import score
from task_streams.prompt import target_text
from task_streams.prompt_style import built_in_styles, prompt_style
from task_streams.types import Box, Question, Target

NAMES = ("x.Ray-fish", "Great_White", "cat")
BOXES = (Box("Great_White", (0, 0, 500, 500)), Box("x.Ray-fish", (500, 500, 900, 900)))
TARGETS: dict[str, Target] = {"class": "Great_White", "boxes": BOXES, "question": Question("?", ("Great_White", "gw"))}
FULL = {"class": 2.0, "boxes": 3.0, "question": 2.0}  # components of the task reward, each 1 at most


@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", built_in_styles())
def test_what_supervised_methods_train_towards_scores_full(name: str, kind: str, think: bool) -> None:
    style = prompt_style(name, think)
    judged = score(target_text(TARGETS[kind], style=style, labels=NAMES), TARGETS[kind], NAMES, style)
    assert (judged.correct, judged.reward, judged.outside) == (True, FULL[kind], False)


def test_rapos_styles_answer_with_the_name_as_it_is_listed() -> None:
    style = prompt_style("rapo_paper")
    assert target_text("Great_White", style=style).endswith("</think><answer>great white</answer>")
    assert '"category": "x ray fish"' in target_text(BOXES, style=style, labels=NAMES)
    assert score("<think>a</think><answer>great white</answer>", "Great_White", NAMES, style).choice == "Great_White"


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", built_in_styles())
def test_two_right_answers_in_one_completion_are_none(name: str, kind: str) -> None:
    style = prompt_style(name)
    text = target_text(TARGETS[kind], style=style, labels=NAMES)
    again = text + text[text.index("<answer>") :]
    judged = score(again, TARGETS[kind], NAMES, style)
    assert (judged.correct, judged.answer, judged.reward) == (False, None, 0.0)


@pytest.mark.parametrize("kind", TARGETS)
def test_an_empty_thought_loses_the_format_alone(kind: str) -> None:
    text = target_text(TARGETS[kind], labels=NAMES)
    empty = "<think></think>" + text[text.index("<answer>") :]
    judged = score(empty, TARGETS[kind], NAMES)
    assert (judged.correct, judged.components["format"], judged.reward) == (True, 0.0, FULL[kind] - 1)


@pytest.mark.parametrize(
    ("name", "thought", "counts"),
    [
        ("rapo_released", "step-by-step reasoning here", False),
        ("rapo_released", "My Step by step reasoning here: it has fins", False),
        ("rapo_released", "the reasoning here is that it has fins", False),
        ("rapo_released", "thinking process here", False),
        ("rapo_released", "Detailed_reasoning here.", False),
        ("rapo_released", "your reasoning", True),  # another style's
        ("rapo_released", "it has fins, hence this reasoning", True),
        ("rapo_paper", "reasoning process", True),  # the paper states no such rule
        ("rapo_paper", "step-by-step reasoning here", True),
        ("suite", "Your-reasoning", False),
        ("suite", "step-by-step reasoning here", True),
    ],
)
def test_a_thought_that_copies_the_styles_example_is_not_well_formed(name: str, thought: str, counts: bool) -> None:
    parsed = parse_completion(f"<think>{thought}</think><answer>cat</answer>", prompt_style(name))
    assert (parsed.answer, parsed.format_ok) == ("cat", counts)
