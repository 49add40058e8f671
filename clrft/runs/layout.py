"""Names in a run folder and its records. A stage's folder is ``task_NN``; stage 0 is before any training."""

from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

STAGE_SCHEMA = 1  # of the records in a stage's folder
METRICS_FILE = "metrics.json"
STATE_FILE = "method_state.json"
STATE_TENSORS = "method_state.safetensors"
MOMENTS_FILE = "optimizer.safetensors"
ANCHOR_FILE = "anchor.safetensors"
STEPS_FILE = "steps.jsonl"
PREDICTIONS_FILE = "predictions.jsonl"
FINAL_LIST_FILE = "final_list.jsonl"
DRIFT_FILE = "drift.jsonl"
TRAINING_FILE = "training.json"
WEIGHTS_FOLDER = "weights"
ERROR_FILE = "error.txt"  # why a run failed
UNFINISHED = "unfinished"  # a training between two updates
# What a stage's activities cost; the counts are those of ``methods/costs/meter.py``, which loads torch.
TRAIN, EVALUATE, DRIFT = ACTIVITIES = ("train", "evaluate", "drift")
COUNTS = ("prompt_tokens", "prompt_tokens_computed", "tokens_generated", "tokens_trained", "images", "model_flops")
WALL, CPU, GPU = SECONDS = ("wall_seconds", "cpu_seconds", "gpu_seconds")
FIGURES = (*COUNTS, *SECONDS)
MEMORY = ("peak_memory_mb", "peak_gpu_memory_mb")


def stage_folder(run: Path, stage: int) -> Path:
    """Folder of a stage."""
    return run / f"task_{stage:02d}"


def finished_stage(run: Path, stages: Iterable[int]) -> int | None:
    """The last of a run's stages that is complete, in order; None if not even the first is."""
    done = list(takewhile(lambda stage: (stage_folder(run, stage) / METRICS_FILE).is_file(), stages))
    return done[-1] if done else None
