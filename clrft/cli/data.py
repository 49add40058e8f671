"""``clrft data``: check a stream's data, look at them, unpack their archives. Nothing is trained or downloaded."""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clrft.config.run_config import RunConfig, build_config, load_group, parse_overrides
from clrft.runner.probes import read_probes
from clrft.utils.files import check_writable, whole_file
from clrft.utils.progress import Bars, say
from clrft.utils.quiet import quiet_libraries
from eval.targets import answer_problems, right_answers
from task_streams import Workspace, build_stream
from task_streams.errors import UserError
from task_streams.probes.sets import ENDING
from task_streams.scenarios.detection import positives
from task_streams.scenarios.fingerprint import check_stream, fingerprints
from task_streams.sources.records import Record
from task_streams.types import Task, TaskStream, new_test_items

if TYPE_CHECKING:
    from methods.inputs.admission import Admission

DEFAULT_SEED = 1993
TRAINING = ("model", "method", "train", "evaluate")  # sections of what a run makes of the data
SHOWN_DIGITS = 12  # of a fingerprint
MOST_PER_CLASS = 12
_SHEET = re.compile(r"task_\d+(-\d+)?\.png")

Damage = dict[str, Record]


def check_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft data check``: a table per task, then everything that is wrong with the data, all at once.

    Raises:
        UserError: with every problem of the data.
    """
    if options.stream.endswith(ENDING):
        return check_probes(options, console)
    given = {word.partition("=")[0].partition(".")[0] for word in options.words}
    given |= set(load_group("stream", options.stream.removeprefix("stream=")))
    training = not given.isdisjoint(TRAINING)
    config = data_config(options.stream, options.words, TRAINING, "sft" if training else "zero_shot")
    check_writable(Path(config.run.output))
    checks = Checks(config, model="model" in given, training=training)
    damage: Damage = {}
    with Bars(console) as bars:
        stream, problems = examine(checks, bars, damage)
    if stream is not None:
        console.print(tasks_table(stream, config, damage))
        if any(task.kind == "detection" for task in stream.tasks):
            console.print(positives_table(stream))
        say(console, *(f"note: {note}" for note in (*stream.notes, *letters_note(stream))))
    if problems:
        raise UserError(*problems)
    console.print(f"{config.stream_label}: no problems found", highlight=False, soft_wrap=True)
    return 0


def check_probes(options: argparse.Namespace, console: Console) -> int:
    """The same for a probe set: its questions by style, and its fingerprint."""
    if options.words:
        raise UserError(f"{options.words[0]}: expected nothing behind a probe set; no setting changes it.")
    (one,) = read_probes([options.stream])
    counts = ", ".join(f"{count} {style}" for style, count in one.counts().items())
    say(console, f"{one.name}: {counts}; SHA-256 {one.fingerprint[:SHOWN_DIGITS]}; no problems found")
    return 0


def show_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft data show``: a contact sheet per task; prints where they are.

    Raises:
        UserError: the stream cannot be built, or the folder not be written.
    """
    if not 1 <= options.per_class <= MOST_PER_CLASS:
        raise UserError(f"--per-class: got {options.per_class}, expected a whole number from 1 to {MOST_PER_CLASS}.")
    config = data_config(options.stream, options.words)
    folder = Path(options.output) if options.output else Path(config.run.output) / "data" / config.stream_label
    check_writable(folder)
    from clrft.cli.contact_sheet import sheets

    with Bars(console) as bars:
        stream = built(config, bars, {})
        bars.begin(config.stream_label, "drawing", len(stream))
        paths = []
        for task in stream.tasks:
            pages = list(sheets(stream, task, options.per_class))
            for number, page in enumerate(pages, start=1):
                suffix = f"-{number}" if len(pages) > 1 else ""
                paths.append(folder / f"task_{task.index:02d}{suffix}.png")
                try:
                    with whole_file(paths[-1]) as beside:
                        page.save(beside, format="PNG")
                except OSError as error:
                    raise UserError(f"can't write {paths[-1]} ({error.strerror or error}).") from error
            bars.advance(config.stream_label)
    if not options.output:  # sheets of earlier settings of the same stream would pass for these
        for path in folder.iterdir():
            if _SHEET.fullmatch(path.name) and path not in paths:
                path.unlink()
    say(console, *paths, *(f"note: {note}" for note in letters_note(stream)))
    return 0


def letters_note(stream: TaskStream) -> list[str]:
    """A note where names of classes and tasks have letters that no font here has."""
    names = [name for task in stream.tasks for name in (task.name, *task.classes)]
    if all(map(str.isascii, names)):
        return []
    from clrft.utils.fonts import font_note

    return [note] if (note := font_note(names)) else []


def unpack_command(options: argparse.Namespace, console: Console) -> int:
    """``clrft data unpack``: an archive into a new folder, whole or not at all."""
    from clrft.utils.archives import unpack

    with Bars(console) as bars:
        unpack(Path(options.archive), Path(options.folder), bars)
    say(console, f"unpacked: {options.folder}")
    return 0


def data_config(stream: str, words: Sequence[str], also: Sequence[str] = (), method: str = "zero_shot") -> RunConfig:
    """The configuration that a stream's name (as in ``clrft run``) and overrides ask for.

    ``also``: sections that are taken beside those that change the data; ``method``: where the words name none.

    Raises:
        UserError: unknown names or keys, or settings that say nothing about data.
    """
    names = parse_overrides([word for word in words if word.partition("=")[0] in ("seed", *also)])
    chosen = parse_overrides([word for word in words if word.partition("=")[0] not in names])
    others = f"; or {', '.join(also)}, which are held against the data" if also else "; nothing else changes the data"
    strange = [
        f"{key}: expected seed=, stream.KEY= or run.output= here{others}."
        for key, value in (names | chosen).items()
        if key not in ("seed", "stream", "run", *also) or (key in chosen and not isinstance(value, dict))
    ]
    if strange:
        raise UserError(*strange)
    model, method = (str(names.get(group, name)) for group, name in (("model", "tiny"), ("method", method)))
    return build_config(stream.removeprefix("stream="), method, model, names.get("seed", DEFAULT_SEED), chosen)


@dataclass(frozen=True)
class Checks:
    """What a stream is held against.

    Attributes:
        model: the model of the configuration was asked for, so every item is held against it too.
        training: settings of a training were given, so the stream is held against these.
    """

    config: RunConfig
    model: bool
    training: bool

    @cached_property
    def admission(self) -> "Admission | None":
        """The rules of the model; None where none was asked for."""
        if not self.model:
            return None
        from clrft.base_model import default_model_path
        from methods.inputs.admission import Admission
        from methods.model.policy import load_processor

        quiet_libraries()
        config = self.config
        processor = load_processor(config.model, config.model.path or str(default_model_path()))
        return Admission(processor, config.train.max_prompt_tokens, config.stream.style)

    def problems(self, stream: TaskStream) -> list[str]:
        """Everything that is wrong with a stream; with a model in the sentences in which a run would refuse it."""
        problems = check_stream(stream)
        if not self.training:
            return [*problems, *answer_problems(right_answers(stream))]
        from clrft.runner.data_checks import update_problems
        from clrft.runner.prepare import check_data
        from methods import build_method

        config = self.config
        method = build_method(config.method_name, config.method, config.parts)
        if self.admission is None:
            updates = update_problems(method, stream, config.train)
            return [*problems, *updates, *answer_problems(right_answers(stream))]
        try:
            check_data(config, stream, method, read_probes(config.evaluate.probes), self.admission)
        except UserError as error:
            return list(error.problems)
        return []


def built(config: RunConfig, bars: Bars, damage: Damage, admission: "Admission | None" = None) -> TaskStream:
    """The stream of a configuration; damaged items are collected by key, with ``admission`` those too that it refuses.

    Raises:
        UserError: it cannot be built.
    """
    bars.begin(config.stream_label, "reading data", None)
    workspace = Workspace(
        Path(config.run.output) / ".cache",
        lambda items: bars.advance(config.stream_label, items),
        lambda record: damage.update({record.key: record}),
    )
    if admission is not None:
        from methods.inputs.media import preferred_feed

        workspace = replace(workspace, feed=preferred_feed(admission.processor), refused=admission.refused)
    return build_stream(config.stream_name, config.stream, config.seed, workspace)


def examine(checks: Checks, bars: Bars, damage: Damage) -> tuple[TaskStream | None, list[str]]:
    """The stream, if it can be built at all, and everything that is wrong with it.

    A stream that damaged items keep from being built is built again without them, so that the rest is checked too.
    """
    config = checks.config
    try:
        stream = built(config, bars, damage, checks.admission)
        return stream, checks.problems(stream)
    except UserError as error:
        problems = list(error.problems)
    if not damage or getattr(config.stream, "on_damaged", "skip") == "skip":
        return None, problems  # damage is not why, or left out already
    lenient = replace(config.stream, on_damaged="skip")
    try:
        stream = built(replace(config, stream=lenient), bars, damage, checks.admission)
    except UserError as error:
        return None, list(dict.fromkeys([*problems, *error.problems]))
    return stream, [*problems, *checks.problems(stream)]


def tasks_table(stream: TaskStream, config: RunConfig, damage: Damage) -> Table:
    """Counts and fingerprints of each task, and their totals."""
    prints = fingerprints(stream)
    short = [short_classes(task, config) for task in stream.tasks]
    damaged = [sum(belongs(record, task) for record in damage.values()) for task in stream.tasks]
    unplaced = len(damage) - sum(damaged)  # of classes that no task of this stream has
    totals = [len(set().union(*(task.classes for task in stream.tasks))), sum(len(t.train) for t in stream.tasks)]
    totals += [sum(map(len, new_test_items(stream.tasks))), sum(short), sum(damaged) + unplaced]
    title = f"{config.stream_label}: {stream.scenario}, order seed {stream.order_seed}"
    table = Table(title=title, title_justify="left", show_footer=True)
    table.add_column("task", "total", min_width=14, overflow="fold")
    for name, total in zip(("classes", "train", "test", "short", "damaged"), totals, strict=True):
        table.add_column(name, str(total), justify="right", no_wrap=True)
    table.add_column("SHA-256", "train\ntest", no_wrap=True)
    for task, few, broken in zip(stream.tasks, short, damaged, strict=True):
        counts = (len(task.classes), len(task.train), len(task.test), few, broken)
        hashes = [prints[f"task_{task.index:02d}/{split}"][:SHOWN_DIGITS] for split in ("train", "test")]
        table.add_row(f"{task.index} {escape(task.name)}", *map(str, counts), "\n".join(hashes))
    return table


def short_classes(task: Task, config: RunConfig) -> int:
    """Classes with fewer training or test items than asked for; a task of questions counts as one class."""
    listed = getattr(config.stream, "shots_list", None) is not None
    short: set[str] = set()
    shots = None if listed else config.stream.shots
    for goal, examples in ((shots, task.train), (config.stream.test_per_class, task.test)):
        counts: Counter[str] = Counter()
        for target in (example.target for example in examples):
            if isinstance(target, tuple):
                counts.update({box.category for box in target})
            else:
                counts[target if isinstance(target, str) else task.name] += 1
        names = task.classes or (task.name,)
        short.update(name for name in names if goal is not None and counts[name] < goal)
    return len(short)


def belongs(record: Record, task: Task) -> bool:
    """Whether a damaged item would be in a task: by its domain, else by its class."""
    if record.domain:
        return record.domain == task.name
    if isinstance(record.target, tuple):
        return any(box.category in task.classes for box in record.target)
    return record.target in task.classes


def positives_table(stream: TaskStream) -> Table:
    """In how many images, and how often, each class of each task is shown."""
    table = Table("task", "class", title="positives", title_justify="left")
    for name in ("train images", "train boxes", "test images", "test boxes"):
        table.add_column(name, justify="right")
    for task in stream.tasks:
        for row in positives(task):
            counts = (row.train_images, row.train_boxes, row.test_images, row.test_boxes)
            table.add_row(str(task.index), escape(row.category), *map(str, counts))
    return table
