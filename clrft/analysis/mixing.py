"""What may not stand in one comparison unseen: other data, prompts, budgets, evaluation, models or versions.

Three kinds of difference between the runs of one stream:

- A sweep's own: its plan varies a setting on purpose, and so does a fork. It is shown in the labels.
- Of training or model, between groups of one method: these are kept apart and named by it anyway (``groups.py``).
- Anything else is refused, unless the user names it (``--mix``); then it is shown, and told in every output.

What follows from settings follows their rule: data and prompts those of the stream, dtype and device those of the
model. Data and prompts are compared within a class order, all else over all runs. Settings of ``FREE`` change time,
memory or what is written down, no cell of a matrix. Deliberately absent: a method's own settings, which may differ.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clrft.analysis.groups import Group, labelled
from clrft.runs.differences import FLOOR, FORK, FREE, facts, settings
from clrft.runs.read import RunRecord
from task_streams.errors import UserError, unknown_name

ALL = "all"
CATCH_ALL = "single"  # the folder of runs that were started one by one: no plan
TRAINING = ("train.", "method.group_size", "method.updates_per_batch")
# What is allowed by one word, beside the first parts of names.
WORDS = {"budget": TRAINING, "versions": ("versions.", "code.")}
CAUSES = {
    "data.": ("stream.",),
    "prompts.": ("stream.",),
    "model.": ("model.", "train.optimizer"),
    "base.": ("model.path", "model.revision"),
    "probes.": ("evaluate.probes",),
}  # facts, and the settings they follow from
_NAMED = 3  # runs that a sentence names


@dataclass(frozen=True, slots=True)
class Mixed:
    """A setting or fact in which runs of one stream differ."""

    stream: str
    name: str  # dotted; a fact of the manifest begins with ``manifest.``
    values: Mapping[str, tuple[RunRecord, ...]]  # runs by value, at least two of them

    def __str__(self) -> str:
        told = " and ".join(f"{value} in {_folders(runs)}" for value, runs in self.values.items())
        return f"{self.stream}: {self.name} is {told}"


def check_words(words: Sequence[str], records: Sequence[RunRecord]) -> None:
    """Refuse what no run has.

    Raises:
        UserError: all such words, each with the nearest name.
    """
    names = {name for run in records for name in (*settings(run), *facts(run))}
    parts = {".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 2)}
    known = {ALL, *WORDS, *parts}
    problems = [f"--mix: {unknown_name('setting', word, known)}" for word in words if _bare(word) not in known]
    if problems:
        raise UserError(*problems)


def sort_out(groups: Sequence[Group], words: Sequence[str] = ()) -> tuple[list[Group], list[Mixed]]:
    """The groups of one stream with labels that show what a plan varies, and what else differs because it may.

    Args:
        groups: of one stream.
        words: names that may differ: a dotted name, the first parts of one, or a word of ``WORDS``, or ``ALL``.

    Raises:
        UserError: the groups differ in what may not differ; one sentence each.
    """
    shown, found = _settings_apart(groups)
    found += _facts_apart(groups)
    refused = []
    for one in found:
        bare = _bare(one.name)
        if not any(
            word == ALL or bare == _bare(word) or bare.startswith((f"{_bare(word)}.", *WORDS.get(word, ())))
            for word in words
        ):
            refused.append(one)
    if refused:
        raise UserError(*(f"{one}." for one in _together(refused)), _remedy(refused))
    named = [*shown, *(one.name for one in found if not one.name.startswith("manifest."))]
    return _with_labels(groups, named), found


def _settings_apart(groups: Sequence[Group]) -> tuple[list[str], list[Mixed]]:
    """Names of the settings that a plan varies and no label shows, and settings that differ without a plan."""
    values = {group.label: _own_settings(group) for group in groups}
    names = dict.fromkeys(name for one in values.values() for name in one)
    shown: list[str] = []
    found: list[Mixed] = []
    for name in names:
        having = [group for group in groups if name in values[group.label]]
        repeats_seed = all(values[group.label][name] == str(run.seed) for group in having for run in group.runs)
        if repeats_seed or len({values[group.label][name] for group in having}) < 2:
            continue
        unplanned: dict[str, Group] = {}
        unlabelled = False
        for at, one in enumerate(having):
            for other in having[:at]:
                told = {*one.settings, *other.settings}
                # a label is enough for a difference that keeps groups apart, but not of data and evaluation
                labelled_apart = name in told and not name.startswith(("stream.", "evaluate."))
                if values[one.label][name] == values[other.label][name] or labelled_apart:
                    continue
                # a plan: all runs are of one sweep, or one of the groups was forked
                places = {run.folder.resolve().parent for group in (one, other) for run in group.runs}
                if FORK not in told and (len(places) > 1 or next(iter(places)).name == CATCH_ALL):
                    unplanned |= {other.label: other, one.label: one}
                unlabelled |= name not in told
        if unplanned:
            runs = [(values[group.label][name], run) for group in unplanned.values() for run in group.runs]
            found.append(Mixed(groups[0].stream, name, _by_value(runs)))
        elif unlabelled:
            shown.append(name)
    return shown, found


def _own_settings(group: Group) -> dict[str, str]:
    """Settings of a group that others are measured by; one that repeats each run's seed is none."""
    own = [settings(run) for run in group.runs]
    budget = () if group.method == FLOOR else TRAINING  # the frozen base is not trained
    kinds = ("stream.", "model.", "evaluate.", *budget)
    has_rollouts = "method.updates_per_batch" in own[0]
    return {
        name: value
        for name, value in own[0].items()
        if name.startswith(kinds)
        and name not in FREE
        and (has_rollouts or not name.startswith("method."))
        and all(one.get(name) == value for one in own)
    }


def _facts_apart(groups: Sequence[Group]) -> list[Mixed]:
    """Facts of the manifests that differ and follow from no setting that differs."""
    runs = [run for group in groups for run in group.runs]
    by_order = [[run for run in runs if run.seed == seed] for seed in sorted({run.seed for run in runs})]
    known = {run.folder: facts(run) for run in runs}
    found: dict[str, list[tuple[str, RunRecord]]] = {}
    parts = {"measure": [runs], "data.": by_order, "prompts.": by_order}
    parts |= {kind: [runs] for kind in ("versions.", "code.", "model.", "base.", "probes.")}
    parts["plugins."] = [list(group.runs) for group in groups]
    for kind, sets in parts.items():
        for some in sets:
            for name in dict.fromkeys(name for run in some for name in known[run.folder] if name.startswith(kind)):
                told = [(value, run) for run in some if (value := known[run.folder].get(name)) is not None]
                if len({value for value, _ in told}) > 1 and not _follows(kind, told):
                    found.setdefault(f"manifest.{name}", []).extend(told)
    return [Mixed(groups[0].stream, name, _by_value(told)) for name, told in found.items()]


def _follows(kind: str, told: Sequence[tuple[str, RunRecord]]) -> bool:
    """Whether a fact differs only between runs whose settings, of the kind that it follows from, differ too."""
    if kind not in CAUSES:
        return False
    values: dict[frozenset[tuple[str, str]], set[str]] = {}
    for value, run in told:
        causes = {(n, v) for n, v in settings(run).items() if n.startswith(CAUSES[kind]) and n not in FREE}
        values.setdefault(frozenset(causes), set()).add(value)
    return all(len(one) == 1 for one in values.values())


def _bare(name: str) -> str:
    return name.removeprefix("manifest.")


def _with_labels(groups: Sequence[Group], names: Sequence[str]) -> list[Group]:
    """Groups that name these settings too, except where most of the groups agree."""
    own = [_own_settings(group) for group in groups]
    added: list[dict[str, str]] = [{} for _ in groups]
    for name in names:
        known = [one[name] for one in own if name in one]
        value, count = Counter(known).most_common(1)[0]
        usual = value if 2 * count > len(known) else None
        for more, one in zip(added, own, strict=True):
            if name in one and one[name] != usual:
                more[name] = one[name]
    both = [more | group.settings for more, group in zip(added, groups, strict=True)]
    return [
        replace(group, settings=told, label=labelled(group.method, told))
        for group, told in zip(groups, both, strict=True)
    ]


def _by_value(told: Iterable[tuple[str, RunRecord]]) -> dict[str, tuple[RunRecord, ...]]:
    values: dict[str, dict[Path, RunRecord]] = {}
    for value, run in told:
        values.setdefault(value, {})[run.folder] = run
    return {value: tuple(runs.values()) for value, runs in values.items()}


def _together(found: Sequence[Mixed]) -> list[str]:
    """Sentences; what parts the runs in the same way stands in one."""
    parted: dict[tuple[tuple[Path, ...], ...], list[Mixed]] = {}
    for one in found:
        parted.setdefault(tuple(tuple(run.folder for run in runs) for runs in one.values.values()), []).append(one)
    sentences = []
    for some in parted.values():
        sides = []
        for values, runs in zip(zip(*(one.values for one in some), strict=True), some[0].values.values(), strict=True):
            short = [value if len(value) <= 20 else f"{value[:12]}…" for value in values]
            told = ", ".join(f"{one.name}={value}" for one, value in zip(some, short, strict=True))
            sides.append(f"{told} in {_folders(runs)}")
        sentences.append(f"{some[0].stream}: {' and '.join(sides)}" if len(some) > 1 else str(some[0]))
    return sentences


def _folders(runs: Sequence[RunRecord]) -> str:
    named = ", ".join(str(run.folder) for run in runs[:_NAMED])
    return named if len(runs) <= _NAMED else f"{named} and {len(runs) - _NAMED} more"


def _remedy(refused: Sequence[Mixed]) -> str:
    """What would allow the differences: facts by their kind, settings one by one."""
    words: dict[str, None] = {}
    for one in refused:
        kind = _bare(one.name).partition(".")[0]
        words[{"code": "versions"}.get(kind, kind) if one.name.startswith("manifest.") else one.name] = None
    named = ",".join(words)
    return (
        "expected runs that are alike in this: compare them apart, run them alike, or allow it by name, e.g. "
        f"--mix {named} (--mix {ALL} allows everything); every output then says so."
    )
