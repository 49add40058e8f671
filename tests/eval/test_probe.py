"""Replies to probe sets and the checks of instructions, scored by rules that are written down."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from eval.checks import TESTS, failed_checks
from eval.probe import ask, chosen_letter, reply_of, scored
from task_streams.probes.checks import CHECKS, Check
from task_streams.probes.sets import Probe, read_probe_set
from task_streams.prompt import Request
from tests.task_streams.probe_files import ROWS, write_probes

OPTIONS = ("a red car", "two cats", "Paris", "B")


@pytest.mark.parametrize(
    ("letter", "replies"),
    [
        ("B", ["B", "(b)", "B. two cats", "Two cats."]),  # the last is an option's text
        ("C", ["The answer is C because (A) is wrong.", "It must be (C)."]),
        ("D", ["Answer: **D**"]),
        # an article, two options, no such option, nothing
        (None, ["A red car is what I see", "Either (A) or (C)", "F", ""]),
    ],
)
def test_a_choice_is_read_by_letter_text_or_phrase(letter: str | None, replies: list[str]) -> None:
    assert [chosen_letter(reply, OPTIONS) for reply in replies] == [letter] * len(replies)


def test_the_answer_block_or_else_all_but_the_thought_is_scored_by_the_rows_rule() -> None:
    for completion, reply in (
        ("<think>hm</think><answer> yes </answer>", "yes"),
        ("<think>no?</think> Yes.", "Yes."),
        ("Yes, <answer>no</answer> <answer>yes</answer>", "no"),  # the first block
        ("yes", "yes"),
    ):
        assert reply_of(completion) == reply
    asked = Probe("k", "yes_no", "?", answers=("yes",))
    assert scored(asked, "Yes, there is.") == ("yes", True)
    assert scored(asked, "There is no dog.") == ("no", False)
    assert scored(asked, "I can not see it") == (None, False)
    exact = Probe("k", "open", "?", answers=("a cat", "cat"))
    assert scored(exact, "Cat.")[1] and not scored(exact, "the cat")[1]
    relaxed = Probe("k", "open", "?", answers=("200",), rule="relaxed_number")
    assert scored(relaxed, "209")[1] and not scored(relaxed, "211")[1]  # 5 % of 200 is 10


def test_a_scripted_policy_is_scored_by_hand(tmp_path: Path) -> None:
    rows = [*ROWS, {**ROWS[1], "question_id": 8, "label": "no"}]
    asked = read_probe_set(write_probes(tmp_path, rows))
    script = {
        "c1": "<think>a shape</think><answer>three</answer>",  # right by the option's text
        "7": "No.",  # wrong
        "1000": "Well, no",  # has a comma
        "o1": "11.5",  # 0.5 is within 5 % of 11
        "8": "No, there is none.",  # right
    }
    batches: list[list[str]] = []

    def generate(requests: Sequence[Request]) -> list[str]:
        batches.append([one.key for one in requests])
        return [script[one.key] for one in requests]

    done: list[int] = []
    answers = ask(generate, asked, stage=2, batch_size=3, on_batch=done.append)
    assert [one.key for one in answers] == ["c1", "7", "1000", "o1", "8"]  # in the file's order
    assert batches == [["c1", "7", "o1"], ["8"], ["1000"]]  # texts alone come by themselves
    assert done == [3, 1, 1]
    assert [one.correct for one in answers] == [True, False, False, True, True]
    assert answers[2].failed == ("punctuation:no_comma",)
    assert [one.answer for one in answers[:2]] == ["B", "no"]
    assert answers[0].to_json()["stage"] == 2


CASES = [
    ("keywords:existence", {"keywords": ["cat", "dog"]}, "A Cat and a dog.", "A cat."),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "A category.", "A cat."),  # whole words only
    ("keywords:frequency", {"keyword": "a.b", "frequency": 2, "relation": "at least"}, "a.b A.B", "a.b axb"),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 2, "let_relation": "less than"}, "Bell", "Eve e"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one two three", "one, two"),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"}, "Yes. No?", "A. B! C?"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", "one *** *** two"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] at [place]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hello.\np.s. more", "Hello. P.S. more"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n- two", "* one\n** two **"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and ** **"),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2},
     "Section 1 a Section 2 b", "Section 1 a"),
    ("detectable_format:title", {}, "<<song>> la", "<< >> la"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "no"),
    ("combination:two_responses", {}, "one ****** two", "one ****** one"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "say hi. Hi!", "Hi! Say hi."),
    ("startend:start_checker", {"start_phrase": "Well"}, '"well, yes"', "Yes, well"),
    ("startend:end_checker", {"end_phrase": "the end"}, "It is The End", "The end is near"),
    ("startend:quotation", {}, '"a"', '"'),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "I SEE", "I see"),
    ("change_case:english_capital", {}, "YES, 3", "Yes"),
    ("change_case:english_lowercase", {}, "yes, 3", "Yes"),
    ("punctuation:no_comma", {}, "yes", "yes, sir"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "passes", "fails"), CASES, ids=[case[0] for case in CASES])
def test_a_check_tells_right_from_wrong(name: str, arguments: dict[str, object], passes: str, fails: str) -> None:
    check = Check(name, arguments)
    assert failed_checks(passes, (check,)) == ()
    assert failed_checks(fails, (check,)) == (name,)


def test_every_check_that_can_be_named_is_tried_here_and_an_empty_reply_passes_none() -> None:
    assert set(TESTS) == set(CHECKS) == {name for name, *_ in CASES}
    assert failed_checks("  ", (Check("punctuation:no_comma"),)) == ("punctuation:no_comma",)
