"""What a cell leaves on disk, and what it needs there meanwhile, from its settings: bytes.

Weights are counted from the model's sizes, as ``clrft/runner/disk_check.py`` counts them from its tensors. The sizes of
rows are those of the quickstart's files; beside weights they are small.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clrft.base_model import default_model_path
from clrft.memory.phases import EXACT
from clrft.planning.stage_work import Cell
from clrft.runner.disk_check import MOMENTS
from clrft.runner.partial_checkpoint import KEPT
from clrft.runs.cost_names import DRIFT

ANSWER = 150  # bytes of a row of predictions beside its completion
GROUP = 420  # of a row of drift figures
UPDATE = 600  # of a row of steps
POINTS = 6000  # of an update's figures in MLflow's store
STAGE = 5000  # of a stage's other files
CELL = 20000  # of a run's other files, and of its copies in MLflow
TOKEN = 4  # letters
PROCESSOR = 11_500_000  # of Qwen2-VL's tokenizer and templates, where there are none to be looked at
SWEEP = 3_500_000  # tables, pictures and report
BESIDE = ("*.json", "*.jinja", "*.txt")  # files of a processor


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of a cell."""

    kept: int  # when it has ended
    meanwhile: int  # beside that while it learns: states of the training that is going on
    stage: int  # written at the end of a stage


def disk_of(cell: Cell, work: pd.DataFrame) -> Disk:
    """What a cell leaves, by its work."""
    config, method, held = cell.config, cell.method, cell.held
    numbers, trained = held.sizes.trained, held.trained * held.parts
    compensation = held.compensated * held.parts
    moments = MOMENTS * trained + compensation
    folder = Path(config.model.path) if config.model.path else default_model_path()
    beside = sum(file.stat().st_size for pattern in BESIDE for file in folder.glob(pattern))  # none if it is not here
    saved = trained if held.lora else trained + (beside if folder.is_dir() else PROCESSOR)
    # Of a stage: weights, moments that are carried, what a method keeps beside them.
    stage = saved + (moments if config.train.carry_optimizer else compensation)
    stage += EXACT * numbers * ("fisher" in method.needs)
    stage += trained * ("l2_init" in {config.method_name, *(name for name, _ in config.parts)})
    learned, last = len(cell.stages) - 1 if cell.trains else 0, config.run.keep_weights == "last"
    anchors = max(0, learned - 1) if held.anchor and method.anchor_rule.kind in ("average", "first") else 0
    stages = min(learned, 1) * stage if last else learned * stage + anchors * saved
    # Predictions, steps and figures, in the run's folder and in MLflow's store.
    copies, points = 2 if config.run.mlflow else 1, POINTS if config.run.mlflow else 0
    rows = work["items"].sum() * (ANSWER + TOKEN * cell.lengths.test) * copies + len(cell.stages) * STAGE
    rows += work.updates.sum() * (UPDATE + points)
    rows += config.evaluate.drift_prompts * GROUP * (work.index.get_level_values("activity") == DRIFT).sum()
    states = (KEPT + 1) * (trained + moments) if config.run.checkpoint_every and learned else 0
    both = stage if last and learned > 1 else 0  # the one before goes after this one came
    return Disk(round(stages + rows + CELL), states + both, stage if learned else 0)
