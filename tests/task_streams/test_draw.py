from collections.abc import Sequence
from dataclasses import replace

from task_streams.scenarios.draw import Drawn, Pool, Taker, draw_pools
from task_streams.types import Example
from tests.task_streams.image_trees import problems_of
from tests.task_streams.streams import make_examples


def test_classes_short_of_shots_are_recorded() -> None:
    pool = Pool((*make_examples("a", 30), *make_examples("b", 6)))
    drawn = draw(pool, 5, 4)
    # b has 6 items and 5 + 4 are wanted: max(6 // 2, 6 - 5) = 3 are held out, 3 are left to train on.
    assert (len(drawn.train["b"]), len(drawn.test["b"])) == (3, 3)
    assert drawn.notes == (
        "1 classes have fewer than 5 training examples: b 3",
        "1 classes have fewer than 4 test examples: b 3",
    )


def test_a_class_in_one_split_only_is_refused_with_its_name() -> None:
    pool = Pool(make_examples("ab", 3, "train"), make_examples("bc", 3, "test"))
    assert problems_of(lambda: draw(pool, 1, 1)) == (
        "no training examples for 1 classes: c",
        "no test examples for 1 classes: a",
    )


def test_the_next_items_step_in_for_those_left_out_and_are_admitted_with_those_of_all_classes() -> None:
    items = {label: list(make_examples(label, 5)) for label in "abc"}
    damaged = {items["a"][0].key, items["a"][2].key, items["b"][1].key}
    asked: list[list[str]] = []

    def admit(batch: Sequence[Example]) -> list[Example | None]:
        asked.append([example.key[5:] for example in batch])
        return [None if example.key in damaged else example for example in batch]

    taken, rest = Taker(admit, distinct=False).take(items, {"a": 2, "b": 2, "c": 1})
    # a0 and b1 fail in the first round, so a2 and b2 are asked next; a2 fails too.
    assert asked == [["a/000", "a/001", "b/000", "b/001", "c/000"], ["a/002", "b/002"], ["a/003"]]
    assert [example.key[5:] for example in taken["a"] + taken["b"]] == ["a/001", "a/003", "b/000", "b/002"]
    assert [len(order) for order in rest.values()] == [1, 2, 4]


def test_a_copy_of_another_class_is_refused_unless_copies_are_skipped() -> None:
    a, b = make_examples("ab", 8)[:8], make_examples("ab", 8)[8:]
    pool = Pool((*a, replace(b[0], content=a[0].content), *b[1:]))
    (problem,) = problems_of(lambda: draw(pool, None, None))
    assert problem.startswith("1 items have the content of an item of another class: ")
    assert "item/a/000 (a)" in problem and "item/b/000 (b)" in problem
    drawn = draw(pool, None, None, distinct=True)
    assert drawn.notes[0].startswith("1 items left out, copies of others: ")


def test_copies_in_a_split_of_the_source_are_kept_and_noted() -> None:
    train = make_examples("a", 3)
    copy = replace(train[1], content=train[0].content)
    drawn = draw(Pool((train[0], copy), make_examples("a", 1, "test")), None, None)
    assert len(drawn.train["a"]) == 2
    assert drawn.notes[0].startswith("1 items are copies of others, and kept: item/a/00")


def test_pools_share_what_was_taken_tests_first_and_by_name_when_copies_are_left_out() -> None:
    pools = {name: Pool(make_examples("a", 4, name), make_examples("a", 2, f"{name}-test")) for name in ("y", "x")}
    same = make_examples("a", 1, "one")[0].content
    for name, pool in pools.items():  # x: in training; y: in test and in training
        train = (replace(pool.train[0], content=same), *pool.train[1:])  # type: ignore[type-var]
        pools[name] = Pool(train, pool.test)
    assert pools["y"].test is not None
    pools["y"] = Pool(pools["y"].train, (replace(pools["y"].test[0], content=same), pools["y"].test[1]))  # type: ignore[type-var]
    drawn = draw_pools(pools, None, None, 42, distinct=True)
    assert list(drawn) == ["y", "x"]
    assert [(len(drawn[name].train["a"]), len(drawn[name].test["a"])) for name in "xy"] == [(3, 2), (3, 2)]
    kept = "y-test/a/000 (a)"
    assert drawn["x"].notes == (f"1 items left out, copies of others: x/a/000 (a) = {kept}",)
    assert drawn["y"].notes == (f"1 items left out, copies of others: y/a/000 (a) = {kept}",)


def draw(pool: Pool, shots: int | None, test_per_class: int | None, seed: int = 42, distinct: bool = False) -> Drawn:
    """The draw of one pool."""
    return draw_pools({"": pool}, shots, test_per_class, seed, distinct=distinct)[""]


def test_a_draw_depends_on_its_seed_and_neither_on_listing_order_nor_on_other_classes() -> None:
    def trained(examples: Sequence[Example], shots: int, seed: int = 42) -> tuple[Example, ...]:
        """What is drawn to train on of class b from a source with a test split."""
        test = make_examples({e.label for e in examples}, 1, prefix="test")
        return draw(Pool(examples, test), shots, None, seed).train["b"]

    examples = make_examples("abc", 40)
    alone = trained(make_examples("b", 40), 8)
    assert alone == trained(tuple(reversed(examples)), 8)
    assert len({example.key for example in alone}) == 8
    assert alone != trained(examples, 8, seed=1)
    assert alone[:3] == trained(examples, 3)  # fewer shots are a part of more


def test_test_items_are_held_out_one_fifth_of_all_and_stay_the_same_whatever_the_shots() -> None:
    pool = Pool(make_examples("ab", 30))
    few, many, everything = draw(pool, 2, 10), draw(pool, 20, 10), draw(pool, None, None)
    assert few.test == many.test
    for label in "ab":
        assert len(few.test[label]) == 10
        assert not {e.key for e in many.train[label]} & {e.key for e in many.test[label]}
        assert (len(everything.train[label]), len(everything.test[label])) == (24, 6)
    test = make_examples("ab", 7, prefix="test")
    own = draw(Pool(make_examples("ab", 9, prefix="train"), test), 5, None)  # a source with a test split keeps it
    assert {e.key for label in "ab" for e in own.test[label]} == {e.key for e in test}
    assert all(e.key.startswith("train/") for e in own.train["a"])


def test_copies_are_left_out_and_a_class_with_too_few_good_items_gets_what_there_is() -> None:
    a, b = make_examples("ab", 1)
    copy = replace(make_examples("b", 1, prefix="zcopy")[0], content=a.content)
    taker = Taker(list, distinct=True)
    taken, rest = taker.take({"a": [a], "b": [b, copy]}, {"a": 1, "b": 2})
    assert taken == {"a": (a,), "b": (b,)}
    assert rest == {"a": [], "b": []}
    assert taker.copies == taker.conflicts == ["zcopy/b/000 (b) = item/a/000 (a)"]
    taken, rest = Taker(lambda batch: [None] * len(batch), distinct=False).take({"a": make_examples("a", 3)}, {"a": 2})
    assert (taken, rest) == ({"a": ()}, {"a": ()})
