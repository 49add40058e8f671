"""Answers before and after they were forgotten: a few test items, one card each, with their images.

Chosen are items that the most methods answered rightly right after learning their task and wrongly at the end, a few
of every task, all from one class order. They show what forgetting looks like, and say nothing about how much there is.
Images come from the data that a run's own settings name: the stream is built again, and only if its fingerprints are
still those of the run's manifest are images shown.
"""

import base64
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from clrft.analysis.compare import FLOOR, Group
from clrft.analysis.table import DASH, Sentence, Table, cells, text_columns
from clrft.report.parts import Block, Part, Subject, missing
from clrft.runs.read import RunRecord
from clrft.utils.plain import section_of
from eval.evaluate import Prediction
from task_streams import STREAMS, Workspace, build_stream
from task_streams.config import typed_section
from task_streams.errors import UserError
from task_streams.scenarios.fingerprint import fingerprints
from task_streams.sources.records import Damaged
from task_streams.types import Clip, TaskStream

MOST_ITEMS, MOST_METHODS, LONGEST = 12, 6, 220  # per stream; characters of a completion
LARGEST, SMALL = 144, 48  # pixels of an image's longer side; smaller images are enlarged in whole steps
MOST_BYTES = 600_000  # of all images of a stream

Key = tuple[int, str]  # task, key of the item
MEANING = {
    "none": "right",
    "format": "no answer in the form asked for",
    "outside_list": "a name that the prompt does not list",
    "same_task": "another class of the same task",
    "newest_task": "a class of the newest task",
    "other_task": "a class of another old task",
    "wrong": "wrong",
}


@dataclass(frozen=True, slots=True)
class Item:
    """A test item and what each method made of it right after its task and at the end."""

    task: int
    key: str
    label: str
    answers: Mapping[str, tuple[Prediction, Prediction]]


def samples_section(subject: Subject) -> Iterator[Part]:
    """Cards of forgotten items."""
    comparison = subject.comparison
    for stream, groups in comparison.streams.items():
        yield from comparison.heading(stream)
        runs = chosen_runs(groups)
        if not runs:
            yield missing(f"{stream}: no method learned two tasks or more one by one.")
            continue
        first_run = next(iter(runs.values()))
        seed, last = first_run.seed, len(first_run.matrix)
        try:
            items = forgotten_items(runs)
        except UserError as error:
            yield missing(f"{stream}: not shown: {' '.join(error.problems)}")
            continue
        if not items:
            told = "no item was answered rightly first and wrongly at the end"
            yield Sentence(f"{stream}: in class order {seed} {told}.")
            continue
        images, problem = images_of(first_run, [(item.task, item.key) for item in items])
        yield Sentence(
            f"{stream}, class order {seed}: items that the most methods answered rightly right after learning their "
            f"task and wrongly after task {last}, at most {MOST_ITEMS}. They were chosen because they were forgotten."
        )
        if problem:
            yield missing(problem)
        cards, rows = [], []
        for item in items:
            shown = [(label, _shown(first), _shown(end)) for label, (first, end) in item.answers.items()]
            cards.append({"item": item, "image": images.get((item.task, item.key)), "rows": shown})
            for label, both in item.answers.items():
                said = [text for one in both for text in (one.completion, MEANING[one.failure])]
                rows.append(cells(str(item.task), item.key, item.label, label, *said))
        yield Block("samples", {"cards": cards, "last": last})
        columns = text_columns("task", "item", "right answer", "method")
        columns += text_columns("after its task", "judged", "at the end", "judged at the end")
        title = f"{stream}: the answers shown above, in full"
        yield Table(title, columns, rows, comparison.key("samples", stream), folded=True)


def chosen_runs(groups: Sequence[Group]) -> dict[str, RunRecord]:
    """One run per method that learned task by task, all of the class order that most of them have, by label."""
    learners = [one for one in groups if one.method != FLOOR and not one.joint and len(one.runs[0].matrix) > 1]
    counts = Counter(run.seed for group in learners for run in group.runs)
    seed = min(counts, key=lambda seed: (-counts[seed], seed), default=None)
    runs = {group.label: run for group in learners for run in group.runs if run.seed == seed}
    return dict(list(runs.items())[:MOST_METHODS])


def forgotten_items(runs: Mapping[str, RunRecord]) -> list[Item]:
    """Items answered rightly first and wrongly at the end, by task, a few of each.

    Raises:
        UserError: a file of predictions is missing or damaged.
    """
    before: dict[Key, dict[str, Prediction]] = {}
    after: dict[Key, dict[str, Prediction]] = {}
    for label, run in runs.items():
        last = len(run.matrix)
        for stage in range(1, last + 1):
            for one in run.predictions(stage):
                if stage == last:
                    after.setdefault((one.task, one.key), {})[label] = one
                elif one.task == stage:
                    before.setdefault((one.task, one.key), {})[label] = one
    lost = Counter(
        place
        for place, by_label in before.items()
        for label, first in by_label.items()
        if first.correct and (end := after.get(place, {}).get(label)) is not None and not end.correct
    )
    tasks = sorted({task for task, _ in lost})
    each = -(-MOST_ITEMS // len(tasks)) if tasks else 0
    chosen: list[Key] = []
    for task in tasks:
        # of equally many, in an order that has nothing to do with their names
        drawn = {place: hashlib.sha256(place[1].encode()).hexdigest() for place in lost if place[0] == task}
        chosen += sorted(drawn, key=lambda place: (-lost[place], drawn[place]))[:each]
    items = []
    for place in chosen[:MOST_ITEMS]:
        ends = after.get(place, {})
        both = {label: (first, ends[label]) for label, first in before[place].items() if label in ends}
        items.append(Item(*place, next(iter(before[place].values())).label, both))
    return items


def _shown(prediction: Prediction) -> dict[str, str | bool]:
    text = prediction.completion
    return {
        "answer": DASH if prediction.answer is None else prediction.answer[:LONGEST],
        "completion": text if len(text) <= LONGEST else text[:LONGEST] + " …",
        "correct": prediction.correct,
        "meaning": MEANING[prediction.failure],
    }


def images_of(run: RunRecord, places: Sequence[Key]) -> tuple[dict[Key, tuple[str, int, int]], str]:
    """Images of test items of a run, data URIs with width and height, and why some or all are missing."""
    try:
        stream = stream_of(run)
    except (UserError, OSError) as error:
        problems = " ".join(error.problems) if isinstance(error, UserError) else str(error)
        return {}, f"The images cannot be shown, as the data cannot be read any more: {problems}"
    if fingerprints(stream) != run.manifest.get("data"):
        return {}, "No images are shown, as the data are not those any more that the run was tested on."
    examples = {(task.index, item.key): item for task in stream.tasks for item in task.test}
    shown: dict[Key, tuple[str, int, int]] = {}
    unread = []
    size = 0
    for place in places:
        try:
            media = examples[place].media()
            uri = data_uri(media.frames[len(media.frames) // 2] if isinstance(media, Clip) else media)
        except (Damaged, UserError, OSError) as error:
            unread.append(f"{place[1]} ({error})")
            continue
        size += len(uri[0])
        if size > MOST_BYTES:
            return shown, f"More than {MOST_BYTES // 1000} kB of images; the others are left out."
        shown[place] = uri
    return shown, f"Images that cannot be read any more: {', '.join(unread)}." if unread else ""


def stream_of(run: RunRecord) -> TaskStream:
    """The stream of a run, built by its saved settings.

    Raises:
        UserError: the settings are damaged, or the data are not there.
    """
    values = dict(section_of(run.config, "stream"))
    name = str(values.pop("name", ""))
    values.pop("label", None)
    if name not in STREAMS:
        raise UserError(f"{run.folder}: no stream is called {name!r}.")
    config = typed_section("stream", STREAMS[name].config, values)
    kept = run.folder.resolve().parent.parent / ".cache"
    return build_stream(name, config, run.seed, Workspace(kept) if kept.is_dir() else Workspace())


def data_uri(image: Image.Image) -> tuple[str, int, int]:
    """A small version of an image in WebP as text for ``src``, its width and its height."""
    longer = max(image.size)
    if longer <= SMALL:
        times = LARGEST // (2 * longer) or 1
        small = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    else:
        small = image.copy()
        small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.convert("RGB").save(file, format="webp", quality=82, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}", small.width, small.height
