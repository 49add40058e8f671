import pytest

from eval.score import failure_kind, score
from task_streams.answers import normalise_answer, option_letter, parse_number, parse_quantity, resolved_rule
from task_streams.prompt_style import prompt_style
from task_streams.types import Question, Rule


def right(answer: str, *truths: str, rule: Rule = "exact") -> bool:
    return score(f"<think>t</think><answer>{answer}</answer>", Question("?", truths, rule), ()).correct


EQUAL = [
    ("Yes.", "yes"), ("  POLAR_bear ", "polar bear"), ("t-shirt", "T shirt"), ("no !", "No"), ("1000", "1,000"),
    ("3.0", "3"), ("3.", "3"), ("1e3", "1000"), ("−5", "-5"), ("?", "?"), ("50%", "50%"),
]  # fmt: skip
OTHER = [
    ("the cat", "cat"), ("cat or dog", "cat"), ("two", "2"), ("-5", "5"), ("3.5", "35"), ("3", "3.01"), ("0.5", "50%"),
    ("5 cm", "5"), ("", "-"), ("", "?"), ("inf", "nan"), ("1,00", "100"), ("21", "20"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "truth"), EQUAL + OTHER)
def test_exact_answers_differ_in_case_separators_final_punctuation_and_spelling_of_a_number_only(
    answer: str, truth: str
) -> None:
    assert right(answer, truth) == ((answer, truth) in EQUAL)


def test_any_accepted_answer_is_right() -> None:
    assert right("sofa", "couch", "sofa")
    assert not right("chair", "couch", "sofa")


@pytest.mark.parametrize("answer", ["B", "b", "B.", "(B)", "B)", "b:", "B. two cats", "(B) two cats"])
def test_an_option_is_its_letter_with_or_without_the_options_text(answer: str) -> None:
    assert right(answer, "B")
    assert right(answer, "(B)")
    assert not right(answer, "A")


@pytest.mark.parametrize("answer", ["A cat", "Both", "two cats", "B C", ""])
def test_words_that_begin_with_a_letter_are_no_option(answer: str) -> None:
    assert not right(answer, "A")
    assert not right(answer, "B")


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        ("105", "100", True),  # 5 off, 5 % of 100 is 5
        ("105.01", "100", False),
        ("95", "100", True),
        ("94.99", "100", False),
        ("0.105", "0.1", True),  # 0.005 off, exactly 5 %; as floats the border would depend on rounding
        ("7.35", "7", True),
        ("-105", "-100", True),  # 5 % of the truth's size
        ("-100", "100", False),
        ("1e3", "1,040", True),  # 40 off, 5 % of 1040 is 52
        ("1,000", "1000", True),
        ("50%", "0.52", True),  # 0.02 off, 5 % of 0.52 is 0.026
        ("50", "50%", False),  # 50 is not about 0.5
        ("5 %.", "5%", True),
        ("21", "20", True),
        ("0", "0", True),
        ("0.0", "0", True),
        ("0.0001", "0", False),  # 5 % of 0 is 0
        ("nan", "100", False),
        ("inf", "100", False),
        ("1e999", "100", False),  # beyond a float: no number
        ("1e300", "1.04e300", True),
        ("5 cm", "5", False),  # units are left alone
        ("red", "Red.", True),  # no numbers: as exact
        ("3", "three", False),
    ],
)
def test_relaxed_numbers_may_be_five_percent_of_the_truth_off(answer: str, truth: str, expected: bool) -> None:
    assert right(answer, truth, rule="relaxed_number") is expected


def test_the_components_are_accuracy_and_format() -> None:
    asked = Question("How many?", ("2",))
    whole = score("<think>two</think><answer>2</answer>", asked, ())
    assert (whole.correct, whole.components, whole.answer) == (True, {"accuracy": 1.0, "format": 1.0}, "2")
    unwrapped = score("so <answer>2</answer>", asked, ())
    assert unwrapped.components == {"accuracy": 1.0, "format": 0.0}
    silent = score("2", asked, ())
    assert (silent.correct, silent.answer, silent.components) == (False, None, {"accuracy": 0.0, "format": 0.0})
    assert score("<answer>2</answer>", asked, (), prompt_style("suite", think=False)).reward == 2.0
    wrong = score("<think>t</think><answer>3</answer>", asked, ())
    assert failure_kind(wrong, asked, {}, 1) == "wrong"
    assert failure_kind(score("three", asked, ()), asked, {}, 1) == "format"


def test_numbers_are_finite_and_whole_texts() -> None:
    assert [str(parse_number(text)) for text in ("1,234.5", ".5", "+2", "1e-3")] == ["1234.5", "0.5", "2", "0.001"]
    for text in ("", "nan", "inf", "1e999", "9" * 400, "12,34", "1 000", "0x10", "1_000", "%", "1.2.3"):
        assert parse_number(text) is None, text
    assert parse_number("1e-999") is not None
    assert parse_number("1e-99999999999999999999") is None  # no exponent has five digits
    assert str(parse_quantity("12.5 %")) == "0.125"


def test_an_answer_made_of_punctuation_keeps_it_and_letters_of_options() -> None:
    assert [normalise_answer(text) for text in ("...", "-", " A. ")] == ["...", "-", "a"]

    assert [option_letter(text) for text in ("c", "(C)", "C.", "C. x", "CC", "1")] == ["C", "C", "C", None, None, None]


def test_the_automatic_rule_relaxes_where_every_truth_is_a_number() -> None:
    assert resolved_rule("auto", ("3", "3.0", "5%")) == "relaxed_number"
    assert resolved_rule("auto", ("3", "three")) == "exact"
    assert [resolved_rule(rule, ("3",)) for rule in ("exact", "relaxed_number")] == ["exact", "relaxed_number"]
