"""How class names and answers are told apart."""

from task_streams.labels import label_problems, normalise_label


def test_labels_are_compared_without_case_and_separators() -> None:
    assert normalise_label("  Great_White-Shark.\n v2 ") == "great white shark v2"
    assert normalise_label("great white") != normalise_label("greatwhite")


def test_labels_that_read_the_same_are_named_together_and_empty_ones_apart() -> None:
    problems = label_problems(["great_white", "Great White", "-.-", "tern"])
    assert len(problems) == 2
    assert "'-.-'" in problems[0]
    assert "'Great White', 'great_white'" in problems[1]
