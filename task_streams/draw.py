"""Which examples are trained on and which are held out: seeded draws per class, pure functions.

A class's draw depends on the draw seed, its name and its items only: not on the class order, on the other
classes or on the order in which a source lists its items. ``RandomState`` is used because numpy keeps its
numbers fixed over versions. Test items are drawn first, so a change of ``shots`` keeps the test items.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from task_streams.errors import UserError
from task_streams.types import Example

HOLD_OUT_SHARE = 5  # with test_per_class = None, one item in five is held out when a source has no test split


@dataclass(frozen=True, slots=True)
class Pool:
    """All labelled examples of a source or of one of its domains.

    Attributes:
        train: examples to draw training items from.
        test: the source's own test split; None = hold test items out of ``train``.
    """

    train: tuple[Example, ...]
    test: tuple[Example, ...] | None = None


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


def by_label(examples: Iterable[Example]) -> dict[str, list[Example]]:
    """Examples of each class, sorted by key; classes sorted by name."""
    groups: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda example: example.key):
        groups.setdefault(example.label, []).append(example)
    return dict(sorted(groups.items()))


def shuffled(examples: Sequence[Example], seed: int, name: str) -> list[Example]:
    """Examples in seeded order, whatever order they came in."""
    ordered = sorted(examples, key=lambda example: example.key)
    return [ordered[i] for i in random_state(seed, name).permutation(len(ordered))]


def few_shot(examples: Iterable[Example], shots: int | None, seed: int) -> dict[str, tuple[Example, ...]]:
    """At most ``shots`` examples of each class (None = all), the same ones whatever the class order."""
    return {label: tuple(shuffled(items, seed, label)[:shots]) for label, items in by_label(examples).items()}


def draw(pool: Pool, shots: int | None, test_per_class: int | None, seed: int) -> Drawn:
    """Training and test examples of every class of a pool.

    Raises:
        UserError: a class has no training or no test examples.
    """
    if pool.test is None:
        train, test, notes = _hold_out(pool.train, shots, test_per_class, seed)
    else:
        train = few_shot(pool.train, shots, seed)
        test, notes = few_shot(pool.test, test_per_class, seed), []
    labels = sorted({*train, *test})
    if missing := _missing(labels, train, "training") + _missing(labels, test, "test"):
        raise UserError(*missing)
    notes += _short(train, shots, "training") + _short(test, test_per_class, "test")
    return Drawn(train, test, tuple(notes))


def _hold_out(
    examples: Sequence[Example], shots: int | None, test_per_class: int | None, seed: int
) -> tuple[dict[str, tuple[Example, ...]], dict[str, tuple[Example, ...]], list[str]]:
    """Split one pool; items of equal content are one item, or they could be in training and test at once."""
    distinct, notes = distinct_content(examples)
    train, test = {}, {}
    for label, items in by_label(distinct).items():
        order = shuffled(items, seed, label)
        held = _held_out_count(len(order), shots, test_per_class)
        test[label] = tuple(order[:held])
        train[label] = tuple(order[held:] if shots is None else order[held : held + shots])
    return train, test, notes


def _held_out_count(items: int, shots: int | None, test_per_class: int | None) -> int:
    """Test items of a class; of a small class at most half is held out, as far as shots ask for it."""
    wanted = items // HOLD_OUT_SHARE if test_per_class is None else test_per_class
    free = items // 2 if shots is None else max(items // 2, items - shots)
    return min(max(wanted, 1), free)


def distinct_content(examples: Iterable[Example]) -> tuple[list[Example], list[str]]:
    """Examples without later copies (by key) of the same content, and a note that names what was left out."""
    first: dict[str, Example] = {}
    copies = []
    for example in sorted(examples, key=lambda example: example.key):
        kept = first.setdefault(example.content, example)
        if kept is not example:
            copies.append(f"{example.key} ({example.label}) = {kept.key} ({kept.label})")
    notes = [f"{len(copies)} items left out, copies of others: {shown(copies)}"] if copies else []
    return list(first.values()), notes


def _missing(labels: Sequence[str], drawn: Mapping[str, tuple[Example, ...]], split: str) -> list[str]:
    empty = [label for label in labels if not drawn.get(label)]
    return [f"no {split} examples for {len(empty)} classes: {shown(empty)}"] if empty else []


def _short(drawn: Mapping[str, tuple[Example, ...]], wanted: int | None, split: str) -> list[str]:
    if wanted is None:
        return []
    short = [f"{label} {len(items)}" for label, items in drawn.items() if len(items) < wanted]
    return [f"{len(short)} classes have fewer than {wanted} {split} examples: {shown(short)}"] if short else []


def shown(names: Sequence[str], limit: int = 20) -> str:
    """Names joined by commas; beyond the limit the rest is counted."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
