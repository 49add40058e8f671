"""Rebuild the embedded base model from nothing but a seed, and compare it with the one that is shipped.

About ten minutes on 2 cores. The same seed, threads, machine and versions give the same weights; elsewhere
rounding sends training another way, so the check compares accuracies within tolerances, not weights.
"""

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from clrft.base_model import default_model_path
from clrft.memory.model_sizes import record_sizes
from scripts.base_model.architecture import tiny_model, tiny_processor
from scripts.base_model.measure import DIGIT_COUNT, GLYPH_COUNT, Measures, measure
from scripts.base_model.pretrain import Report, Schedule, pretrain
from scripts.base_model.tokenizer import train_tokenizer
from task_streams.errors import UserError

RECORD = "recorded.json"
SEED = 0  # of the shipped model
THREADS = 2  # fixed during pretraining: the order of summation depends on it
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "matplotlib", "scikit-learn")

# Largest accepted distance from the recorded accuracies. Handwriting is far from what is trained on, so it
# moves most when rounding or versions differ; print and format hardly move.
TOLERANCES = {"format": 0.03, "printed": 0.05, "handwriting": 0.10, "silent": 0.12, "mixed_groups": 0.12}


@dataclass(frozen=True, slots=True)
class Difference:
    """One accuracy of the rebuilt model beside the recorded one."""

    name: str
    recorded: float
    rebuilt: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether the two are within the tolerance."""
        return abs(self.recorded - self.rebuilt) <= self.tolerance


def recorded_measures(folder: Path | None = None) -> dict[str, Any]:
    """Accuracies recorded beside a model, by default the shipped one.

    Raises:
        UserError: the folder holds no record.
    """
    path = (folder or default_model_path()) / RECORD
    if not path.is_file():
        raise UserError(
            f"{path} is missing: expected the folder of a model made by `python -m scripts.base_model build`."
        )
    measures: dict[str, Any] = json.loads(path.read_text())["measures"]
    return measures


def check_base(recorded: Mapping[str, Any], rebuilt: Mapping[str, Any]) -> list[Difference]:
    """Every recorded accuracy beside the rebuilt one; ``ok`` is false where they differ too much.

    Raises:
        UserError: an accuracy is missing on either side.
    """
    missing = [name for name in TOLERANCES if name not in recorded or name not in rebuilt]
    if missing:
        raise UserError(*(f"accuracy {name!r} is missing: expected in both records." for name in missing))
    return [Difference(name, recorded[name], rebuilt[name], limit) for name, limit in TOLERANCES.items()]


def build_base(
    out: Path,
    seed: int = SEED,
    schedule: Schedule | None = None,
    progress: bool = True,
    measured_digits: int = DIGIT_COUNT,
    measured_glyphs: int = GLYPH_COUNT,
) -> dict[str, Any]:
    """Pretrain, save in bfloat16, reload, measure; returns the record, which also lies in ``out``.

    The folder appears whole or not at all. Fewer steps or measured items than the default are for tests.

    Raises:
        UserError: ``out`` exists and is not empty, or cannot be written.
    """
    schedule = schedule or Schedule()
    beside = _workplace(out)
    try:
        with _bar(progress) as bar:
            started = time.perf_counter()
            _pretrain_and_save(beside, seed, schedule, _reporter(bar))
            seconds = time.perf_counter() - started
        measures = measure(beside, measured_digits, measured_glyphs)
        record = _record(measures, seed, schedule, seconds)
        (beside / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        record_sizes(beside)
        for file in beside.iterdir():
            file.chmod(0o644)  # safetensors writes 0600
        if out.exists():
            out.rmdir()
        beside.rename(out)
    finally:
        if beside.exists():
            shutil.rmtree(beside)
    return record


def _workplace(out: Path) -> Path:
    """Fresh folder beside ``out`` to build in."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder: expected a new one.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(f"cannot write to {out.parent}: {error.strerror}.") from error
    beside.chmod(0o755)
    return beside


def _pretrain_and_save(folder: Path, seed: int, schedule: Schedule, report: Report) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        tokenizer = train_tokenizer()
        model: Any = tiny_model(tokenizer, seed)
        pretrain(model, tokenizer, seed, schedule, report)
    finally:
        torch.set_num_threads(threads)
    model.to(torch.bfloat16).save_pretrained(folder)
    tiny_processor(tokenizer).save_pretrained(folder)


def _record(measures: Measures, seed: int, schedule: Schedule, seconds: float) -> dict[str, Any]:
    """What is written beside the weights: accuracies after the reload, and how the model came to be."""
    return {
        "schema": 1,
        "measures": measures.to_json(),
        "seed": seed,
        "schedule": asdict(schedule),
        "seconds": round(seconds, 1),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "threads": THREADS},
    }


def _bar(shown: bool) -> AbstractContextManager[Progress | None]:
    if not shown:
        return nullcontext()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


def _reporter(bar: Progress | None) -> Report:
    """Callback that moves one progress bar per stage."""
    rows: dict[str, Any] = {}

    def report(stage: str, done: int, total: int, loss: float) -> None:
        if bar is None:
            return
        if stage not in rows:
            rows[stage] = bar.add_task(stage, total=total, loss=loss)
        bar.update(rows[stage], completed=done, loss=loss)

    return report
