"""Which examples are trained on and which are held out: seeded draws per class, pure functions.

A class's draw depends on the draw seed, its name and its items only: not on the class order, on the other
classes or on the order in which a source lists its items. ``RandomState`` is used because numpy keeps its
numbers fixed over versions. Test items are drawn first, so a change of ``shots`` keeps the test items.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from task_streams.errors import UserError, shown
from task_streams.sources.records import Record
from task_streams.types import Example

HOLD_OUT_SHARE = 5  # with test_per_class = None, one item in five is held out when a source has no test split

Item = Record | Example  # what is drawn: a record that is not read yet, or an example
AnItem = TypeVar("AnItem", bound=Item)
# Records to examples, None for each that is left out; reads only what is drawn. ``list`` admits examples as they are.
Admit = Callable[[Sequence[Any]], Sequence[Example | None]]


@dataclass(frozen=True, slots=True)
class Pool:
    """All labelled items of a source or of one of its domains.

    Attributes:
        train: items to draw training examples from.
        test: the source's own test split; None = hold test examples out of ``train``.
    """

    train: Sequence[Item]
    test: Sequence[Item] | None = None

    @property
    def items(self) -> tuple[Item, ...]:
        """Both splits."""
        return (*self.train, *(self.test or ()))

    def only(self, value: Callable[[Item], str], kept: Collection[str]) -> "Pool":
        """The pool's items whose value, such as their label, is among some."""
        test = None if self.test is None else [item for item in self.test if value(item) in kept]
        return Pool([item for item in self.train if value(item) in kept], test)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Examples drawn from a pool, per class name, and what is worth recording about the draw."""

    train: Mapping[str, tuple[Example, ...]]
    test: Mapping[str, tuple[Example, ...]]
    notes: tuple[str, ...] = ()


def random_state(seed: int, name: str) -> np.random.RandomState:
    """Random generator that depends on a seed and a name alone, equal on every machine."""
    digest = hashlib.sha256(name.encode()).digest()
    words = np.frombuffer(digest, dtype="<u4")  # [8]
    return np.random.RandomState([seed, *(int(word) for word in words)])


def shuffled(items: Sequence[AnItem], seed: int, name: str) -> list[AnItem]:
    """Items in seeded order, whatever order they came in."""
    ordered = sorted(items, key=lambda item: item.key)
    return [ordered[i] for i in random_state(seed, name).permutation(len(ordered))]


def shuffled_classes(items: Iterable[AnItem], seed: int) -> dict[str, Sequence[AnItem]]:
    """Items of each class in its seeded order; classes sorted by name."""
    groups: dict[str, list[AnItem]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    return {label: shuffled(of_class, seed, label) for label, of_class in sorted(groups.items())}


@dataclass(slots=True)
class Taker:
    """Takes items in a given order, leaving out damaged ones and copies of what was taken.

    Attributes:
        admit: makes examples of items.
        distinct: leave out an item whose content was taken before, so that it is in one split and class only.
        taken: first example of each content; takers that share it leave out each other's copies too.
        copies: items whose content was taken before.
        conflicts: those among them whose target is another one.
        left_out: how many items of each class were left out, by the reason.
    """

    admit: Admit
    distinct: bool
    taken: dict[str, Example] = field(default_factory=dict)
    copies: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)

    def take(
        self, orders: Mapping[str, Sequence[Item]], wanted: Mapping[str, int] | int | None
    ) -> tuple[dict[str, tuple[Example, ...]], dict[str, Sequence[Item]]]:
        """The first good examples of each class's items in order, as many as wanted, and the items after them.

        All classes are admitted together, so that what must be read is read at once; for what was left out, the
        next items are admitted in another round.

        Args:
            orders: items by class, in the order in which they are taken.
            wanted: number of examples of each class, or of every class; None = all.
        """
        if not isinstance(wanted, Mapping):
            wanted = {label: len(order) if wanted is None else wanted for label, order in orders.items()}
        chosen: dict[str, list[Example]] = {label: [] for label in orders}
        rest = dict(orders)
        while True:
            batches = {label: order[: wanted[label] - len(chosen[label])] for label, order in rest.items()}
            if not any(batches.values()):
                return {label: tuple(examples) for label, examples in chosen.items()}, rest
            rest = {label: order[len(batches[label]) :] for label, order in rest.items()}
            labels = [label for label, batch in batches.items() for _ in batch]
            admitted = self.admit([item for batch in batches.values() for item in batch])
            for label, example in zip(labels, admitted, strict=True):
                if example is None:
                    self.left_out.setdefault(label, Counter())["damaged or not taken by the model"] += 1
                    continue
                kept = self.taken.setdefault(example.content, example)
                if kept is not example:
                    pair = f"{example.key} ({example.target}) = {kept.key} ({kept.target})"
                    self.copies.append(pair)
                    self.conflicts += [pair] if example.target != kept.target else []
                if kept is example or not self.distinct:
                    chosen[label].append(example)
                else:
                    self.left_out.setdefault(label, Counter())["copies of others"] += 1


def draw_pools(
    pools: Mapping[str, Pool],
    shots: int | None,
    test_per_class: int | None,
    seed: int,
    admit: Admit = list,
    distinct: bool = False,
) -> dict[str, Drawn]:
    """Training and test examples of every class of several pools, such as domains.

    Args:
        pools: items by split, by name.
        shots: training examples per class and pool, None = all.
        test_per_class: test examples per class and pool, None = all (or one fifth of what has no test split).
        seed: of the draws.
        admit: makes examples of the items that are drawn.
        distinct: leave out copies (by content) over all pools and splits, test items of all pools first, pools by name.
            Otherwise copies are left out of pools without a test split only, each for itself, and must be of one class.

    Raises:
        UserError: a class has no training or no test examples, or copies have different classes; of all pools.
    """
    taken: dict[str, Example] = {}
    takers = {
        name: Taker(admit, distinct or pool.test is None, taken if distinct else {}) for name, pool in pools.items()
    }
    tests, rests = {}, {}
    for name, pool in sorted(pools.items()):
        orders = shuffled_classes(pool.train, seed)
        if pool.test is not None:
            tests[name], rests[name] = takers[name].take(shuffled_classes(pool.test, seed), test_per_class)[0], orders
            continue
        held_out = {}
        for label, items in ((label, len(order)) for label, order in orders.items()):
            wanted = items // HOLD_OUT_SHARE if test_per_class is None else test_per_class
            free = items // 2 if shots is None else max(items // 2, items - shots)  # for testing: half at most of a few
            held_out[label] = min(max(wanted, 1), free)
        tests[name], rests[name] = takers[name].take(orders, held_out)
    trains = {name: takers[name].take(rest, shots)[0] for name, rest in rests.items()}
    problems, drawn = [], {}
    for name, pool in pools.items():
        splits = (("training", trains[name], shots), ("test", tests[name], test_per_class))
        wrong, notes = _judged(pool, takers[name], splits, not distinct)
        problems += [f"{name}: {problem}" if name else problem for problem in wrong]
        train, test = ({k: v for k, v in some[name].items() if v} for some in (trains, tests))
        drawn[name] = Drawn(train, test, tuple(notes))
    if problems:
        raise UserError(*problems)
    return drawn


def with_reasons(label: str, left_out: Mapping[str, int]) -> str:
    """A class, and how many of its items were left out for which reasons."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    return f"{label} (left out: {reasons})" if reasons else label


def _judged(
    pool: Pool, taker: Taker, splits: Iterable[tuple[str, Mapping[str, Sequence[Example]], int | None]], strict: bool
) -> tuple[list[str], list[str]]:
    """What is wrong with what was drawn of a pool, and notes on it.

    ``splits``: each with its examples by class and how many were wanted; ``strict``: copies must be of one class where
    test items were held out, because the order of taking can't say which class is right.
    """
    wrong, notes = [], []
    if taker.copies:
        done = "left out, copies of others" if taker.distinct else "are copies of others, and kept"
        notes.append(f"{len(taker.copies)} items {done}: {shown(taker.copies)}")
    if taker.conflicts and pool.test is None and strict:
        what = f"{len(taker.conflicts)} items have the content of an item of another class: {shown(taker.conflicts)}"
        wrong.append(f"{what}; mend the classes, or set on_copies=skip to keep the first of each")
    labels = sorted({item.label for item in pool.items})
    for split, examples, wanted in splits:
        if empty := [label for label in labels if not examples.get(label)]:
            names = [with_reasons(label, taker.left_out.get(label, {})) for label in empty]
            wrong.append(f"no {split} examples for {len(empty)} classes: {shown(names)}; add items, or use others")
        counts = {label: len(items) for label, items in examples.items()}
        if short := [f"{label} {count}" for label, count in counts.items() if 0 < count < (wanted or 0)]:
            notes.append(f"{len(short)} classes have fewer than {wanted} {split} examples: {shown(short)}")
    return wrong, notes
