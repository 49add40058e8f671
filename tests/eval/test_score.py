"""The reply format, one rule for reward and evaluation in every prompt style, and why a prediction is wrong."""

import pytest

from eval.parse import parse_completion
from eval.score import Failure, failure_kind, matches, score
from task_streams.answers import normalise_answer, option_letter, parse_number, parse_quantity, resolved_rule
from task_streams.prompt import target_text
from task_streams.prompt_style import SUITE, built_in_styles, prompt_style
from task_streams.types import Box, Question, Rule, Target

SILENT = prompt_style("suite", think=False)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("three", None),
        ("<answer>three</answer>", "three"),  # no thought
        ("<think>a</think>", None),  # no answer
        ("<answer>three</answer><think>a</think>", "three"),  # wrong order
        ("so <think>a</think><answer>three</answer>", "three"),  # text before, between, after
        ("<think>a</think> so <answer>three</answer>", "three"),
        ("<think>a</think><answer>three</answer>.", "three"),
        ("<think>a</think><think>b</think><answer>three</answer>", "three"),
        ("<think>a</think><answer>three</answer><answer>eight</answer>", None),  # two answers are none,
        ("<think>a</think><answer>three</answer> or <answer>eight</answer>", None),
        ("<think>a</think><answer>three</answer><answer>three</answer>", None),  # also if they agree
        ("<think>a <answer>three</answer></think><answer>three</answer>", None),
        ("<think>a</think><answer>three", None),  # unclosed
        ("<think>a</think><answer><answer>three</answer>", "<answer>three"),
        ("<Think>a</Think><Answer>three</Answer>", None),
        ("", None),
    ],
)
def test_anything_but_one_thought_then_one_answer_is_malformed_but_read(completion: str, answer: str | None) -> None:
    parsed = parse_completion(completion)
    assert (parsed.answer, parsed.format_ok) == (answer, False)


def test_a_supervised_target_and_white_space_around_and_between_blocks_are_well_formed() -> None:
    for text, answer, thought in (
        (target_text("three"), "three", "it looks like three"),
        ("\n <think> a\nb </think>\n<answer> Great White </answer> \n", "Great White", "a\nb"),
    ):
        parsed = parse_completion(text)
        assert (parsed.answer, parsed.thought, parsed.format_ok) == (answer, thought, True)
    assert parse_completion(target_text("three", style=SILENT), SILENT).format_ok
    assert not parse_completion(target_text("three"), SILENT).format_ok
    assert score("<answer>three</answer>", "three", SEEN, SILENT).reward == 2.0


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


NAMES = ("x.Ray-fish", "Great_White", "cat")
BOXES = (Box("Great_White", (0, 0, 500, 500)), Box("x.Ray-fish", (500, 500, 900, 900)))
TARGETS: dict[str, Target] = {"class": "Great_White", "boxes": BOXES, "question": Question("?", ("Great_White", "gw"))}
FULL = {"class": 2.0, "boxes": 3.0, "question": 2.0}  # components of the task reward, each 1 at most


@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", built_in_styles())
def test_a_supervised_target_scores_full_and_two_right_answers_nothing(name: str, kind: str, think: bool) -> None:
    style = prompt_style(name, think)
    text = target_text(TARGETS[kind], style=style, labels=NAMES)
    judged = score(text, TARGETS[kind], NAMES, style)
    assert (judged.correct, judged.reward, judged.outside) == (True, FULL[kind], False)
    judged = score(text + text[text.index("<answer>") :], TARGETS[kind], NAMES, style)
    assert (judged.correct, judged.answer, judged.reward) == (False, None, 0.0)


def test_the_choice_is_the_listed_name_and_rapos_styles_answer_with_the_name_as_it_is_listed() -> None:
    assert score(reply("Great White"), "three", SEEN).choice == "great_white"
    style = prompt_style("rapo_paper")
    assert target_text("Great_White", style=style).endswith("</think><answer>great white</answer>")
    assert '"category": "x ray fish"' in target_text(BOXES, style=style, labels=NAMES)
    assert score("<think>a</think><answer>great white</answer>", "Great_White", NAMES, style).choice == "Great_White"


@pytest.mark.parametrize("kind", TARGETS)
def test_an_empty_thought_loses_the_format_alone(kind: str) -> None:
    text = target_text(TARGETS[kind], labels=NAMES)
    empty = "<think></think>" + text[text.index("<answer>") :]
    judged = score(empty, TARGETS[kind], NAMES)
    assert (judged.correct, judged.components["format"], judged.reward) == (True, 0.0, FULL[kind] - 1)


COPIES = {
    "suite": ["your reasoning", " Your-Reasoning ", "your_reasoning", "", " \n "],
    "rapo_released": [
        "step-by-step reasoning here", "My Step by step reasoning here: it has fins",
        "the reasoning here is that it has fins", "thinking process here", "Detailed_reasoning here.",
    ],
}  # fmt: skip
THOUGHTS = {
    "suite": ["step-by-step reasoning here"],  # another style's
    "rapo_released": ["your reasoning", "it has fins, hence this reasoning"],
    "rapo_paper": ["reasoning process", "step-by-step reasoning here"],  # the paper states no such rule
}


@pytest.mark.parametrize(("thoughts", "counts"), [(COPIES, False), (THOUGHTS, True)], ids=["copies", "thoughts"])
def test_a_thought_that_is_empty_or_copies_the_styles_example_is_none(
    thoughts: dict[str, list[str]], counts: bool
) -> None:
    for name, thought in ((name, thought) for name, some in thoughts.items() for thought in some):
        parsed = parse_completion(f"<think>{thought}</think><answer>cat</answer>", prompt_style(name))
        assert (parsed.answer, parsed.format_ok) == ("cat", counts), (name, thought)


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
def test_exact_answers_differ_in_case_separators_final_punctuation_and_a_numbers_spelling(
    answer: str, truth: str
) -> None:
    assert right(answer, truth) == ((answer, truth) in EQUAL)


def test_any_accepted_answer_is_right_and_an_option_is_its_letter_with_or_without_the_options_text() -> None:
    assert right("sofa", "couch", "sofa") and not right("chair", "couch", "sofa")
    for answer in ("B", "b", "B.", "(B)", "B)", "b:", "B. two cats", "(B) two cats"):
        assert right(answer, "B") and right(answer, "(B)") and not right(answer, "A"), answer
    for answer in ("A cat", "Both", "two cats", "B C", ""):  # words that begin with a letter are no option
        assert not right(answer, "A") and not right(answer, "B"), answer


WITHIN = [
    ("105", "100"), ("95", "100"), ("7.35", "7"), ("21", "20"), ("1,000", "1000"), ("0", "0"), ("0.0", "0"),
    ("0.105", "0.1"),  # 0.005 off, exactly 5 %; as floats the border would depend on rounding
    ("-105", "-100"),  # 5 % of the truth's size
    ("1e3", "1,040"),  # 40 off, 5 % of 1040 is 52
    ("50%", "0.52"),  # 0.02 off, 5 % of 0.52 is 0.026
    ("5 %.", "5%"), ("1e300", "1.04e300"), ("red", "Red."),  # the last are no numbers: as exact
]  # fmt: skip
BEYOND = [
    ("105.01", "100"), ("94.99", "100"), ("-100", "100"), ("nan", "100"), ("inf", "100"), ("3", "three"),
    ("50", "50%"),  # 50 is not about 0.5
    ("0.0001", "0"),  # 5 % of 0 is 0
    ("1e999", "100"),  # beyond a float: no number
    ("5 cm", "5"),  # units are left alone
]  # fmt: skip


@pytest.mark.parametrize(("answer", "truth"), WITHIN + BEYOND)
def test_relaxed_numbers_may_be_five_percent_of_the_truth_off(answer: str, truth: str) -> None:
    assert right(answer, truth, rule="relaxed_number") == ((answer, truth) in WITHIN)


def test_the_components_are_accuracy_and_format() -> None:
    asked = Question("How many?", ("2",))
    whole = score("<think>two</think><answer>2</answer>", asked, ())
    assert (whole.correct, whole.components, whole.answer) == (True, {"accuracy": 1.0, "format": 1.0}, "2")
    unwrapped = score("so <answer>2</answer>", asked, ())
    assert unwrapped.components == {"accuracy": 1.0, "format": 0.0}
    silent = score("2", asked, ())
    assert (silent.correct, silent.answer, silent.components) == (False, None, {"accuracy": 0.0, "format": 0.0})
    assert score("<answer>2</answer>", asked, (), SILENT).reward == 2.0
    wrong = score("<think>t</think><answer>3</answer>", asked, ())
    assert failure_kind(wrong, asked, {}, 1) == "wrong"
    assert failure_kind(score("three", asked, ()), asked, {}, 1) == "format"


def test_numbers_are_finite_and_whole_texts_and_the_automatic_rule_relaxes_where_every_truth_is_one() -> None:
    assert [str(parse_number(text)) for text in ("1,234.5", ".5", "+2", "1e-3")] == ["1234.5", "0.5", "2", "0.001"]
    for text in ("", "nan", "inf", "1e999", "9" * 400, "12,34", "1 000", "0x10", "1_000", "%", "1.2.3"):
        assert parse_number(text) is None, text
    assert parse_number("1e-999") is not None
    assert parse_number("1e-99999999999999999999") is None  # no exponent has five digits
    assert str(parse_quantity("12.5 %")) == "0.125"
    assert resolved_rule("auto", ("3.5", "3.0", "5%")) == "relaxed_number"
    assert resolved_rule("auto", ("3", "three")) == "exact"
    assert [resolved_rule(rule, ("3.5",)) for rule in ("exact", "relaxed_number")] == ["exact", "relaxed_number"]
    assert [normalise_answer(text) for text in ("...", "-", " A. ")] == ["...", "-", "a"]
    assert [option_letter(text) for text in ("c", "(C)", "C.", "C. x", "CC", "1")] == ["C", "C", "C", None, None, None]


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("10%", "-10%", False), ("5%", ".5%", False), ("5 °C", "-5 °C", False), ("2x", "-2x", False),
        ("$3", "$-3", False), ("$3", "-$3", False), ("x", "-x", False), ("cat", "- cat", True),
        ("$1 50", "$1.50", False), ("3 apples", "-3 apples", False), ("10", "10%", False),
        ("-10 %", "−10%", True), ("T-shirt.", "t shirt", True), ("COVID-19", "covid 19", True), ("U.S.", "u s", True),
        ("３．５", "3.5", True), ("１０％", "10%", True), ("ｃａｔ！", "cat", True), ("猫。", "猫", True),
        ("B", "（Ｂ）", True),
        ("Cafe\u0301", "café", True), ("3-4", "3 4", True),
    ],
)  # fmt: skip
def test_an_answer_is_compared_as_people_read_it(answer: str, truth: str, right: bool) -> None:
    assert matches(answer, truth, "exact") is right


@pytest.mark.parametrize("answer", ["1990", "2000", "2014", "2%"])
def test_years_and_counts_are_exact_unless_all_numbers_are_to_be_relaxed(answer: str) -> None:
    for truth in ("2015", "1,200", "2"):
        for rule in ("auto", "relaxed_number"):
            assert not right(answer, truth, rule=resolved_rule(rule, (truth,)))
            assert right(f"{truth}.0", truth, rule=resolved_rule(rule, (truth,)))  # the same number all the same
    assert right("1990", "2015", rule=resolved_rule("relaxed_all", ("2015",)))
    assert resolved_rule("relaxed_number", ("2015", "in 2015")) == "exact"


def test_a_class_is_right_with_the_quotes_in_which_prompts_list_it() -> None:
    labels = ("salt, pepper", "salt", '6" nail')
    assert SUITE.ask("classification", labels).startswith(
        'What does the image show? Choose from: "salt, pepper", "salt", "6\\" nail".'
    )
    assert "Choose from: salt, pepper." in SUITE.ask("classification", ("salt", "pepper"))
    for answer in ('"salt, pepper"', "salt, pepper", "'Salt, Pepper'", "“salt, pepper”"):
        found = score(f"<think>t</think><answer>{answer}</answer>", "salt, pepper", labels)
        assert (found.correct, found.choice, found.outside) == (True, "salt, pepper", False)
    assert score('<answer>"6\\" nail"</answer>', '6" nail', labels).correct
    for answer in ('"salt', "salt pepper", '"salt", "pepper"', '""'):
        assert not score(f"<answer>{answer}</answer>", "salt, pepper", labels).correct
