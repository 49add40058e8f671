"""What a cell leaves on disk, and what it needs there meanwhile, from its settings: bytes.

Weights are counted from the model's sizes, as ``clrft/runner/disk_check.py`` counts them from its tensors. The sizes of
rows are those of the quickstart's files; beside weights they are small.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clrft.base_model import default_model_path
from clrft.memory.estimate import ADAPTER
from clrft.planning.cell import Cell
from clrft.planning.operation_counts import Tally
from clrft.runner.disk_check import MOMENTS
from clrft.runner.partial_checkpoint import KEPT
from clrft.runs.cost_names import DRIFT, EVALUATE

EXACT = 4  # bytes of float32, in which Fisher information is kept
ANSWER = 150  # bytes of a row of predictions beside its completion
GROUP = 420  # of a row of drift figures
UPDATE = 600  # of a row of steps
POINTS = 6000  # of an update's figures in MLflow's store
STAGE = 5000  # of a stage's other files
CELL = 20000  # of a run's other files, and of its copies in MLflow
TOKEN = 4  # letters
PROCESSOR = 11_500_000  # of Qwen2-VL's tokenizer and templates, where there are none to be looked at
SWEEP = 3_500_000  # tables, pictures and report
COPIES = 2  # of every answer: in the run's folder, and in MLflow's
BESIDE = ("*.json", "*.jinja", "*.txt")  # files of a processor


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of a cell.

    Attributes:
        kept: when it has ended.
        meanwhile: beside that while it learns: states of the training that is going on.
        stage: written at the end of a stage.
    """

    kept: int
    meanwhile: int
    stage: int


def disk_of(cell: Cell, work: Mapping[int, Mapping[str, Tally]]) -> Disk:
    """What a cell leaves; ``work``: of its stages."""
    config, method = cell.config, cell.method
    checkpoint, width = cell.passes.checkpoint, cell.passes.weight
    trained = checkpoint.trained * (ADAPTER if checkpoint.adapter else width)
    saved = trained if checkpoint.adapter else checkpoint.sizes.parameters * width + processor_bytes(config.model.path)
    compensation = trained if cell.passes.compensated else 0
    moments = MOMENTS * trained + compensation
    stage = saved + (moments if config.train.carry_optimizer else compensation) + state_bytes(cell, trained)
    learned = len(cell.stages) - 1 if cell.trains else 0
    anchors = max(0, learned - 1) if "anchor" in method.needs and method.anchor_rule.kind in ("average", "first") else 0
    last = config.run.keep_weights == "last"
    stages = (min(learned, 1) if last else learned) * stage + (0 if last else anchors * saved)
    rows = sum(row_bytes(cell, tallies) for tallies in work.values())
    states = (KEPT + 1) * (trained + moments) if config.run.checkpoint_every and learned else 0
    both = stage if last and learned > 1 else 0  # the one before goes after this one came
    return Disk(round(stages + rows + CELL), states + both, stage if learned else 0)


def state_bytes(cell: Cell, trained: int) -> int:
    """What a method keeps of a stage beside the weights."""
    numbers = cell.passes.checkpoint.trained
    names = {cell.config.method_name, *(name for name, _ in cell.config.parts)}
    return (EXACT * numbers if "fisher" in cell.method.needs else 0) + (trained if "l2_init" in names else 0)


def row_bytes(cell: Cell, work: Mapping[str, Tally]) -> float:
    """Predictions, steps and figures of a stage."""
    answers = work[EVALUATE].answers * (ANSWER + TOKEN * cell.lengths.test)
    updates = sum(tally.updates for tally in work.values())
    groups = cell.config.evaluate.drift_prompts * GROUP if DRIFT in work else 0
    points = updates * POINTS if cell.config.run.mlflow else 0.0
    return answers * (COPIES if cell.config.run.mlflow else 1) + updates * UPDATE + points + groups + STAGE


def processor_bytes(path: str | None) -> int:
    """Files of a checkpoint's processor."""
    folder = Path(path) if path else default_model_path()
    if not folder.is_dir():
        return PROCESSOR
    return sum(file.stat().st_size for pattern in BESIDE for file in folder.glob(pattern))
