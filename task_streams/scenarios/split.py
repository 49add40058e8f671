"""Class or domain order, disjoint tasks, and the builders that any labelled image source plugs into.

Protocol: RaPO (arXiv 2605.09640): class order ``RandomState(seed).permutation(n)`` over the sorted names.
Pure functions of their arguments; nothing is decoded here. Which examples are drawn: ``draw.py``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from task_streams.errors import UserError, shown
from task_streams.labels import label_problems
from task_streams.scenarios.draw import Admit, Drawn, Pool, draw_pools, random_state
from task_streams.types import LabelOrder, Task, TaskStream, listed, new_test_items

NAME_LIMIT = 40  # characters of a task name made of class names


def class_order(names: Sequence[str], seed: int) -> tuple[str, ...]:
    """Names in the order of ``RandomState(seed).permutation(n)`` over the sorted names."""
    ordered = sorted(names)
    return tuple(ordered[i] for i in np.random.RandomState(seed).permutation(len(ordered)))


def task_name(classes: Sequence[str]) -> str:
    """Name of a task made of its classes, cut to ``NAME_LIMIT``; unique because the first class is in it."""
    whole = "+".join(classes)
    if len(whole) <= NAME_LIMIT or len(classes) == 1:
        return whole
    return f"{classes[0]}+{len(classes) - 1} more"


def build_cil(
    name: str,
    pool: Pool,
    *,
    sizes: Sequence[int],
    order_seed: int,
    shots: int | None,
    test_per_class: int | None,
    draw_seed: int = 42,
    label_order: LabelOrder = "sorted",
    admit: Admit = list,
    distinct: bool = False,
    notes: Sequence[str] = (),
) -> TaskStream:
    """Class-incremental stream: task i teaches the next ``sizes[i]`` classes of the class order.

    ``shots``, ``test_per_class``, ``admit`` and ``distinct`` are those of ``draw_pools``; ``notes`` the source's.

    Raises:
        UserError: more classes asked than there are, names that answers cannot tell apart, a class
            without training or test examples, copies of different classes.
    """
    labels = {item.label for item in pool.items}
    problems = label_problems(labels)
    if not sizes or min(sizes) < 1:
        problems.append(f"{name}: tasks of {list(sizes)} classes asked; expected 1 or more in each")
    elif sum(sizes) > len(labels):
        problems.append(too_many_classes(name, sizes, len(labels)))
    if problems:
        raise UserError(*problems)
    order = class_order(tuple(labels), order_seed)
    used = set(order[: sum(sizes)])  # others are not drawn, so they are not read either
    pools = {"": pool.only(lambda item: item.label, used)}
    drawn = draw_pools(pools, shots, test_per_class, draw_seed, admit, distinct)[""]
    tasks: list[Task] = []
    end = 0
    for size in sizes:
        classes, end = order[end : end + size], end + size
        seen = listed(order[:end], label_order)
        tasks.append(_task(len(tasks) + 1, task_name(classes), classes, seen, drawn))
    unused = [f"{end} of {len(labels)} classes are used"] if end < len(labels) else []
    return TaskStream(name, "cil", order_seed, tuple(tasks), (*notes, *unused, *drawn.notes))


def build_dil(
    name: str,
    pools: Mapping[str, Pool],
    *,
    order_seed: int,
    shots: int | None,
    test_per_class: int | None,
    draw_seed: int = 42,
    label_order: LabelOrder = "sorted",
    seeded_order: bool = True,
    disjoint: bool = True,
    admit: Admit = list,
    distinct: bool = False,
    notes: Sequence[str] = (),
) -> TaskStream:
    """Domain-incremental stream: one task per domain, with all classes of the domain; the rest as in ``build_cil``.

    Domains come in the order of the seed, or with ``seeded_order=False`` in that of ``pools``. An item (key) that
    several domains share is dealt to one of them (by ``draw_seed``), so no item comes back in a later task; with
    ``disjoint=False`` a source must give such items different keys itself.

    Raises:
        UserError: no domain, names that answers cannot tell apart, a class of a domain without training
            or test examples, copies of different classes.
    """
    if not pools:
        raise UserError(f"{name}: no domains; expected at least one")
    pools = deal(pools, draw_seed) if disjoint else pools
    labels = {item.label for pool in pools.values() for item in pool.items}
    if problems := label_problems(labels):
        raise UserError(*problems)
    domains = class_order(tuple(pools), order_seed) if seeded_order else tuple(pools)
    tasks: list[Task] = []
    found: list[str] = []
    taught: tuple[str, ...] = ()
    every = draw_pools({name: pools[name] for name in domains}, shots, test_per_class, draw_seed, admit, distinct)
    for index, (domain, drawn) in enumerate(every.items(), start=1):
        classes = tuple(drawn.train)
        taught = tuple(dict.fromkeys((*taught, *classes)))
        tasks.append(_task(index, domain, classes, listed(taught, label_order), drawn))
        absent = sorted(labels - set(classes))
        found += [f"{domain}: no examples of {len(absent)} classes: {shown(absent)}"] if absent else []
        found += [f"{domain}: {note}" for note in drawn.notes]
    return TaskStream(name, "dil", order_seed, tuple(tasks), (*notes, *found))


def deal(pools: Mapping[str, Pool], seed: int) -> dict[str, Pool]:
    """Pools in which every key belongs to one domain: shared items are dealt out evenly, class by class."""
    owners: dict[str, dict[str, list[str]]] = {}  # label -> key -> domains that have the item
    for domain, pool in sorted(pools.items()):
        for label, key in sorted({(item.label, item.key) for item in pool.items}):
            owners.setdefault(label, {}).setdefault(key, []).append(domain)
    owner: dict[str, str] = {}
    for label, of_label in sorted(owners.items()):
        keys = sorted(of_label)
        for turn, i in enumerate(random_state(seed, f"deal {label}").permutation(len(keys))):
            shared = of_label[keys[i]]
            owner[keys[i]] = shared[turn % len(shared)]
    return {domain: pool.only(lambda item: owner[item.key], {domain}) for domain, pool in pools.items()}


def joint_task(stream: TaskStream) -> Task:
    """All tasks of a stream as one: the upper bound that learns everything at once."""
    classes = tuple(dict.fromkeys(label for task in stream.tasks for label in task.classes))
    train = tuple(example for task in stream.tasks for example in task.train)
    test = tuple(example for items in new_test_items(stream.tasks) for example in items)
    return replace(stream.tasks[0], index=1, name="joint", classes=classes, seen=stream.labels, train=train, test=test)


def _task(index: int, name: str, classes: tuple[str, ...], seen: tuple[str, ...], drawn: Drawn) -> Task:
    train = tuple(example for label in classes for example in drawn.train[label])
    test = tuple(example for label in classes for example in drawn.test[label])
    return Task(index, name, classes, seen, train, test)


def too_many_classes(name: str, sizes: Sequence[int], available: int) -> str:
    """Sentence for a stream that is asked for more classes than its source has."""
    return f"{name}: {sum(sizes)} classes asked ({len(sizes)} tasks), but there are {available}; ask for fewer"
