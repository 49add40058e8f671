"""Which questions are trained on and which are tested on: examples of records, and seeded draws per task.

What is drawn is read and nothing else. An item's content is its image together with what is asked about it: many
questions may be about one image, in training and in testing; how many do is noted.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from task_streams.config import SourceConfig
from task_streams.draw import Taker, shown, shuffled
from task_streams.errors import UserError
from task_streams.fingerprint import target_value
from task_streams.library import Library
from task_streams.records import Record, Split
from task_streams.types import Example, Task


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
        inside = [Path(record.source.name).resolve().is_relative_to(self.images) for record in records]
        admitted = iter(self.library.admit([record for record, kept in zip(records, inside, strict=True) if kept]))
        return [
            self._asked(next(admitted)) if kept else self._refused(record)
            for record, kept in zip(records, inside, strict=True)
        ]

    def _refused(self, record: Record) -> Example | None:
        self.library.damaged[record.key] = f"a link that leads out of {self.images}; refused"
        self.library.workspace.damaged(record)
        return None

    def _asked(self, example: Example | None) -> Example | None:
        if example is None:
            return None
        self.contents[example.key] = example.content
        said = json.dumps([example.content, target_value(example.target)[0]])
        return replace(example, content=hashlib.sha256(said.encode()).hexdigest())

    def shared_images(self, tasks: Sequence[Task]) -> list[str]:
        """How many test questions are about an image that training asks something else about."""
        trained = {self.contents[example.key] for task in tasks for example in task.train}
        counts = {task.name: sum(self.contents[example.key] in trained for example in task.test) for task in tasks}
        said = [f"{name} {count}" for name, count in counts.items() if count]
        return [f"test questions about images that are trained on with another question: {shown(said)}"] if said else []


@dataclass(frozen=True, slots=True)
class DrawnTask:
    """Questions of one task, and what is worth recording about their draw."""

    train: tuple[Example, ...]
    test: tuple[Example, ...]
    notes: tuple[str, ...]


def draw_questions(
    names: Iterable[str], records: Sequence[Record], config: SourceConfig, shots: int | None, reader: QuestionReader
) -> dict[str, DrawnTask]:
    """Training and test questions of each task; a task's draw depends on its own files and the draw seed only.

    Raises:
        UserError: tasks are left with no training or no test questions.
    """
    drawn = {
        name: draw_task(name, [record for record in records if record.domain == name], config, shots, reader)
        for name in names
    }
    empty = [f"task {name}: no training questions" for name, task in drawn.items() if not task.train]
    empty += [f"task {name}: no test questions" for name, task in drawn.items() if not task.test]
    if empty:
        raise UserError(*empty)
    return drawn


def draw_task(
    name: str, records: Sequence[Record], config: SourceConfig, shots: int | None, reader: QuestionReader
) -> DrawnTask:
    """Test questions first, so that other shots keep them."""
    taker = Taker(reader.admit, config.on_copies == "skip")
    kept: dict[Split, tuple[Example, ...]] = {}
    notes: list[str] = []
    wanted_of: dict[Split, int | None] = {"test": config.test_per_class, "train": shots}
    for split, wanted in wanted_of.items():
        order = shuffled([record for record in records if record.split == split], config.draw_seed, name)
        chosen, _ = taker.take({name: order}, {name: len(order) if wanted is None else wanted})
        kept[split] = chosen[name]
        if wanted is not None and len(kept[split]) < wanted:
            notes.append(f"{name}: {len(kept[split])} {split} questions, fewer than {wanted}")
    used = {example.key for examples in kept.values() for example in examples}
    copies = sorted(record.key for record in records if record.key in reader.contents and record.key not in used)
    if copies:
        notes.append(f"{name}: {len(copies)} questions left out, asked about the same image before: {shown(copies)}")
    return DrawnTask(kept["train"], kept["test"], tuple(notes))
