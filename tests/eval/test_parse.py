"""The reply format: what counts as an answer and as well-formed."""

import pytest

from eval.parse import parse_completion
from task_streams.prompt import target_text
from task_streams.prompt_style import prompt_style

SILENT = prompt_style("suite", think=False)


def test_the_target_of_supervised_training_is_well_formed() -> None:
    parsed = parse_completion(target_text("three"))
    assert (parsed.answer, parsed.thought, parsed.format_ok) == ("three", "it looks like three", True)


def test_white_space_around_and_between_blocks_is_allowed() -> None:
    parsed = parse_completion("\n <think> a\nb </think>\n<answer> Great White </answer> \n")
    assert (parsed.answer, parsed.thought, parsed.format_ok) == ("Great White", "a\nb", True)


@pytest.mark.parametrize(
    "completion",
    [
        "three",
        "<answer>three</answer>",  # no thought
        "<think>a</think>",  # no answer
        "<answer>three</answer><think>a</think>",  # wrong order
        "so <think>a</think><answer>three</answer>",  # text before
        "<think>a</think> so <answer>three</answer>",  # text between
        "<think>a</think><answer>three</answer>.",  # text after
        "<think>a</think><think>b</think><answer>three</answer>",
        "<think>a</think><answer>three</answer><answer>eight</answer>",
        "<think>a<answer>three</answer></think><answer>three</answer>",
        "<think>a</think><answer>three",
        "<think>a</think><answer><answer>three</answer>",
        "<Think>a</Think><Answer>three</Answer>",
        "",
    ],
)
def test_anything_but_one_thought_then_one_answer_is_not_well_formed(completion: str) -> None:
    assert not parse_completion(completion).format_ok


@pytest.mark.parametrize("thought", ["your reasoning", " Your-Reasoning ", "your_reasoning", "", " \n "])
def test_the_prompts_own_placeholder_and_an_empty_block_are_no_thought(thought: str) -> None:
    parsed = parse_completion(f"<think>{thought}</think><answer>three</answer>")
    assert (parsed.answer, parsed.format_ok) == ("three", False)


def test_the_answer_is_read_even_from_a_malformed_completion_unless_it_is_unclosed() -> None:
    parsed = parse_completion("well <answer>three</answer>")
    assert (parsed.answer, parsed.format_ok) == ("three", False)
    assert parse_completion("<think>a</think><answer>three").answer is None


@pytest.mark.parametrize(
    "completion",
    [
        "<think>a</think><answer>three</answer><answer>three</answer>",
        "<think>a <answer>three</answer></think><answer>three</answer>",
        "<think>a</think><answer>three</answer> or <answer>eight</answer>",
    ],
)
def test_two_answer_blocks_are_no_answer_also_if_they_agree(completion: str) -> None:
    parsed = parse_completion(completion)
    assert (parsed.answer, parsed.format_ok) == (None, False)


def test_without_thinking_one_answer_block_alone_is_well_formed() -> None:
    assert parse_completion(target_text("three", style=SILENT), SILENT).format_ok
    assert not parse_completion(target_text("three"), SILENT).format_ok
