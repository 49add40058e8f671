"""What a stage has done so far, on disk: states of its training, and what it learned while that is being tested.

``unfinished/task_NN/step_000020/`` holds one state of the training; the newest two stay. ``trained/`` beside it holds
what the training left. Every folder appears whole, names what the task began with, and carries checksums. All of it
goes once the task's own folder is there. One thread writes beside the training, one state at a time.
"""

import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from clrft.config.records import Unfinished, read_record
from clrft.runs.layout import UNFINISHED, stage_folder
from clrft.utils.files import clean_partials, digest, remove, sha256_file, whole_folder, write_json_atomic
from methods.distributed import ranks
from methods.training.state import TrainingState
from task_streams.errors import UserError

SCHEMA = 2  # 1 had no digest
KEPT = 2  # states of one task: should the newest be damaged, there is another
_STEP = re.compile(r"step_[0-9]{6,}")
VALUES, TENSORS = "state.json", "state.safetensors"


class WrongParent(UserError):
    """A state of another task, or of this one begun otherwise."""


class PartialCheckpoint:
    """The unfinished work of one stage.

    Args:
        run: the run's folder.
        stage: which stage.
        parent: identity of what the stage begins with (``clrft/runner/lineage.py``).
        say: tells the user a sentence.

    Attributes:
        folder: of all of it.
        trained: of what the training left, once it is over.
        writer: the thread that writes states; what it could not write when it ends is not told any more.
    """

    def __init__(self, run: Path, stage: int, parent: str, say: Callable[[str], None]) -> None:
        self.folder = stage_folder(run / UNFINISHED, stage)
        self.trained = self.folder / "trained"
        self.parent = parent
        self.say = say
        self.writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def newest(self) -> TrainingState | None:
        """The newest state that is whole; None if there is none.

        Of several processes the first looks for it, and all read it. Damaged ones are told and removed.

        Raises:
            UserError: a state belongs to a task that began with something else.
        """
        found: dict[str, TrainingState] = {}

        def look() -> str:
            clean_partials(self.folder)
            for folder in reversed(states_in(self.folder)):
                try:
                    found[folder.name] = self._read(folder)
                    return folder.name
                except WrongParent:
                    raise
                except (UserError, OSError, SafetensorError) as error:
                    self.say(f"{folder} is damaged and left out: {error}")
                    remove(folder)
            return ""

        name = ranks.on_rank0(look)
        return ranks.all_or_fail(lambda: found.get(name) or self._read(self.folder / name)) if name else None

    def keep(self, state: TrainingState) -> None:
        """Begin to write a state, once the one before is written.

        Raises:
            OSError: the one before could not be written.
        """
        place = self.folder.absolute()  # for the thread, whatever the working folder is meanwhile

        def write() -> None:
            with whole_folder(place / f"step_{state.step:06d}") as folder:
                save_file(dict(state.tensors), folder / TENSORS)
                head = {"schema": SCHEMA, "parent": self.parent, "step": state.step}
                body = {**head, "sha256": sha256_file(folder / TENSORS), "values": dict(state.values)}
                write_json_atomic(folder / VALUES, {**body, "digest": digest(body)})
            for old in states_in(place)[:-KEPT]:
                remove(old)

        self.settle()
        self._writing = self.writer.submit(write)

    def settle(self) -> None:
        """Wait until nothing is being written.

        Raises:
            OSError: what was being written could not be.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _read(self, folder: Path) -> TrainingState:
        head = read_record(folder / VALUES, SCHEMA, Unfinished)
        stated = head.pop("digest")
        if stated != digest(head):
            raise UserError(f"{VALUES} has the digest {stated[:12]}, expected {digest(head)[:12]}; it was changed.")
        if head["parent"] != self.parent:
            raise WrongParent(
                f"{folder} belongs to a task that began with {head['parent'][:12]}; expected {self.parent[:12]}, what "
                "the task before left. Remove it, or restore the task before."
            )
        found = sha256_file(folder / TENSORS)
        if found != head["sha256"]:
            raise UserError(f"{TENSORS} has SHA-256 {found[:12]}, expected {head['sha256'][:12]}.")
        return TrainingState(head["step"], load_file(folder / TENSORS), head["values"])


def states_in(folder: Path) -> list[Path]:
    """Folders of a stage's states, the oldest first."""
    return sorted(path for path in folder.glob("step_*") if _STEP.fullmatch(path.name))


def clear(run: Path, stage: int) -> None:
    """Remove a stage's unfinished work, and the folder of all of it once that is empty."""
    folder = stage_folder(run / UNFINISHED, stage)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()
