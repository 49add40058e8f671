import pytest

from task_streams.draw import Pool, distinct_content, draw, few_shot
from task_streams.errors import UserError
from tests.task_streams.streams import make_examples


def test_a_draw_depends_neither_on_listing_order_nor_on_other_classes() -> None:
    alone = few_shot(make_examples("b", 20), 5, seed=42)["b"]
    reverse = few_shot(tuple(reversed(make_examples("abc", 20))), 5, seed=42)["b"]
    assert alone == reverse
    assert len({example.key for example in alone}) == 5


def test_another_seed_draws_other_examples() -> None:
    examples = make_examples("a", 100)
    assert few_shot(examples, 5, seed=1) != few_shot(examples, 5, seed=2)


def test_fewer_shots_are_a_part_of_more_shots() -> None:
    examples = make_examples("a", 30)
    assert few_shot(examples, 8, seed=42)["a"][:3] == few_shot(examples, 3, seed=42)["a"]


def test_test_items_are_held_out_and_stay_the_same_whatever_the_shots() -> None:
    pool = Pool(make_examples("ab", 30))
    few, many = draw(pool, 2, 10, 42), draw(pool, 20, 10, 42)
    assert few.test == many.test
    for label in "ab":
        assert len(few.test[label]) == 10
        assert not {e.key for e in many.train[label]} & {e.key for e in many.test[label]}


def test_classes_short_of_shots_are_recorded() -> None:
    pool = Pool((*make_examples("a", 30), *make_examples("b", 6)))
    drawn = draw(pool, 5, 4, 42)
    # b has 6 items and 5 + 4 are wanted: max(6 // 2, 6 - 5) = 3 are held out, 3 are left to train on.
    assert (len(drawn.train["b"]), len(drawn.test["b"])) == (3, 3)
    assert drawn.notes == (
        "1 classes have fewer than 5 training examples: b 3",
        "1 classes have fewer than 4 test examples: b 3",
    )


def test_none_takes_everything_and_holds_out_one_fifth() -> None:
    drawn = draw(Pool(make_examples("a", 50)), None, None, 42)
    assert (len(drawn.train["a"]), len(drawn.test["a"])) == (40, 10)


def test_a_source_with_its_own_test_split_keeps_it() -> None:
    test = make_examples("ab", 7, prefix="test")
    drawn = draw(Pool(make_examples("ab", 9, prefix="train"), test), 5, None, 42)
    assert {e.key for label in "ab" for e in drawn.test[label]} == {e.key for e in test}
    assert all(e.key.startswith("train/") for e in drawn.train["a"])


def test_a_class_in_one_split_only_is_refused_with_its_name() -> None:
    pool = Pool(make_examples("ab", 3, "train"), make_examples("bc", 3, "test"))
    with pytest.raises(UserError) as caught:
        draw(pool, 1, 1, 42)
    assert caught.value.problems == (
        "no training examples for 1 classes: c",
        "no test examples for 1 classes: a",
    )


def test_copies_are_left_out_and_named() -> None:
    a, b = make_examples("ab", 1)
    copy = make_examples("a", 1, prefix="zcopy")[0]
    copy = type(copy)(copy.key, copy.label, copy.image, a.content)
    kept, notes = distinct_content((copy, b, a))
    assert kept == [a, b]
    assert notes == ["1 items left out, copies of others: zcopy/a/000 (a) = item/a/000 (a)"]
