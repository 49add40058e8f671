"""Which questions are trained on and which are tested on: examples of records, and seeded draws per task.

What is drawn is read and nothing else. An item's content is its image together with what is asked about it: many
questions may be about one image, in training and in testing; how many do is noted.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from task_streams.config import SourceConfig
from task_streams.errors import UserError, shown
from task_streams.scenarios.draw import Taker, shuffled, with_reasons
from task_streams.sources.layout import LINKS_REMEDY, link_problem
from task_streams.sources.library import Library
from task_streams.sources.records import Record
from task_streams.types import Example, Question, Task, target_value


@dataclass(slots=True)
class QuestionReader:
    """Examples of questions on demand; their content is the image and what is asked about it.

    Attributes:
        library: reads and verifies the images.
        images: folder, resolved, that every image lies in.
        contents: SHA-256 (hex) of the image of each item.
    """

    library: Library
    images: Path
    contents: dict[str, str] = field(default_factory=dict)

    def admit(self, records: Sequence[Record]) -> list[Example | None]:
        """The example of each record, None for a damaged one; a link that leads out of the folder counts as damage."""
        inside = {r.key for r in records if not link_problem(self.images, r.source.name)}
        admitted = iter(self.library.admit([record for record in records if record.key in inside]))
        examples: list[Example | None] = []
        for record in records:
            example = next(admitted) if record.key in inside else None
            if record.key not in inside:
                self.library.damaged[record.key] = f"a link that leads out of {self.images}; refused{LINKS_REMEDY}"
                self.library.workspace.damaged(record)
            if example is not None:
                self.contents[example.key] = example.content
                identity = json.dumps([example.content, target_value(example.target)[0]])
                example = replace(example, content=hashlib.sha256(identity.encode()).hexdigest())
            examples.append(example)
        return examples

    def shared_images(self, tasks: Sequence[Task]) -> list[str]:
        """How many test questions are about an image that training asks something else about."""
        texts = {e.key: e.target.text for t in tasks for e in (*t.train, *t.test) if isinstance(e.target, Question)}
        trained: dict[str, set[str]] = {}
        for example in (example for task in tasks for example in task.train):
            trained.setdefault(self.contents[example.key], set()).add(texts[example.key])
        shared = []
        for task in tasks:
            others = (trained.get(self.contents[e.key], set()) - {texts[e.key]} for e in task.test)
            if count := sum(map(bool, others)):
                shared.append(f"{task.name} {count}")
        sentence = f"test questions about images that are trained on with another question: {shown(shared)}"
        return [sentence] if shared else []


def draw_questions(
    names: Sequence[str], records: Sequence[Record], config: SourceConfig, shots: int | None, reader: QuestionReader
) -> tuple[tuple[Task, ...], list[str]]:
    """The tasks of these names, in their order, and what is worth recording about their draws.

    A task's draw depends on its own files and the draw seed only. Test questions are taken first, so that other shots
    keep them. Where copies are skipped, a question that several tasks ask is kept in one: of a test set before training
    sets, of the first task by name.

    Raises:
        UserError: tasks are left with no training or no test questions.
    """
    by_task: dict[str, list[Record]] = {name: [] for name in sorted(names)}
    for record in records:
        if record.domain in by_task:
            by_task[record.domain].append(record)
    taker = Taker(reader.admit, config.on_copies == "skip")
    wanted = {"test": config.test_per_class, "train": shots}
    drawn: dict[str, dict[str, tuple[Example, ...]]] = {}
    for split in wanted:
        drawn[split] = {}
        for name, own in by_task.items():
            order = shuffled([record for record in own if record.split == split], config.draw_seed, name)
            drawn[split] |= taker.take({name: order}, wanted[split])[0]
    notes: list[str] = []
    for name in names:
        for split, least in wanted.items():
            if len(kept := drawn[split][name]) < (least or 0):
                notes.append(f"{name}: {len(kept)} {split} questions, fewer than {least}")
        used = {example.key for kept in drawn.values() for example in kept[name]}
        if copies := sorted(r.key for r in by_task[name] if r.key in reader.contents and r.key not in used):
            what = f"{len(copies)} questions left out, asked about the same image before"
            notes.append(f"{name}: {what}: {shown(copies)}")
    empty = [
        f"task {with_reasons(name, taker.left_out.get(name, {}))}: no {word} questions; add rows, or leave the task out"
        for split, word in (("train", "training"), ("test", "test"))
        for name, kept in drawn[split].items()
        if not kept
    ]
    if empty:
        raise UserError(*empty)
    tasks = (
        Task(number, name, (), (), drawn["train"][name], drawn["test"][name], kind="question")
        for number, name in enumerate(names, start=1)
    )
    return tuple(tasks), notes
