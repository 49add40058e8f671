"""What a cell leaves on disk, and what it needs there meanwhile, from its settings: bytes.

Weights are counted from the model's sizes, as ``clrft/runner/disk_check.py`` counts them from its tensors. The sizes of
rows are those of the quickstart's files; beside weights they are small.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clrft.base_model import default_model_path
from clrft.memory.estimate import ADAPTER
from clrft.planning.operation_counts import OperationCounts
from clrft.planning.stage_work import Cell
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
BESIDE = ("*.json", "*.jinja", "*.txt")  # files of a processor


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of a cell."""

    kept: int  # when it has ended
    meanwhile: int  # beside that while it learns: states of the training that is going on
    stage: int  # written at the end of a stage


def disk_of(cell: Cell, work: Mapping[int, Mapping[str, OperationCounts]]) -> Disk:
    """What a cell leaves; ``work``: of its stages."""
    config, method, sizes, setup = cell.config, cell.method, cell.passes.sizes, cell.passes.setup
    trained = sizes.trained * (ADAPTER if sizes.adapter else setup.weight)
    compensation = trained if setup.compensated else 0
    moments = MOMENTS * trained + compensation
    # Of a stage: weights, moments that are carried, what a method keeps beside them.
    saved = trained if sizes.adapter else sizes.parameters * setup.weight + processor_bytes(config.model.path)
    fisher = EXACT * sizes.trained if "fisher" in method.needs else 0
    initial = trained if "l2_init" in {config.method_name, *(name for name, _ in config.parts)} else 0
    stage = saved + (moments if config.train.carry_optimizer else compensation) + fisher + initial
    learned, last = len(cell.stages) - 1 if cell.trains else 0, config.run.keep_weights == "last"
    anchors = max(0, learned - 1) if "anchor" in method.needs and method.anchor_rule.kind in ("average", "first") else 0
    stages = min(learned, 1) * stage if last else learned * stage + anchors * saved
    # Predictions, steps and figures, in the run's folder and in MLflow's store.
    rows, copies, points = 0.0, 2 if config.run.mlflow else 1, POINTS if config.run.mlflow else 0
    for counts in work.values():
        groups = config.evaluate.drift_prompts * GROUP if DRIFT in counts else 0
        updates = sum(one.updates for one in counts.values())
        answers = counts[EVALUATE].answers * (ANSWER + TOKEN * cell.lengths.test)
        rows += answers * copies + updates * (UPDATE + points) + groups + STAGE
    states = (KEPT + 1) * (trained + moments) if config.run.checkpoint_every and learned else 0
    both = stage if last and learned > 1 else 0  # the one before goes after this one came
    return Disk(round(stages + rows + CELL), states + both, stage if learned else 0)


def processor_bytes(path: str | None) -> int:
    """Files of a checkpoint's processor."""
    folder = Path(path) if path else default_model_path()
    if not folder.is_dir():
        return PROCESSOR
    return sum(file.stat().st_size for pattern in BESIDE for file in folder.glob(pattern))
