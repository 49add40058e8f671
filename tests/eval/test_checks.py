"""Every check of an instruction, with a reply that passes and one that does not."""

import pytest

from eval.checks import TESTS, failed_checks
from task_streams.probes.checks import CHECKS, Check

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


def test_every_check_that_can_be_named_is_tried_here() -> None:
    assert set(TESTS) == set(CHECKS) == {name for name, *_ in CASES}


def test_an_empty_reply_passes_nothing() -> None:
    assert failed_checks("  ", (Check("punctuation:no_comma"),)) == ("punctuation:no_comma",)
