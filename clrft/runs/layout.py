"""Names in a run folder. A stage's folder is ``task_NN``; stage 0 is before any training."""

from pathlib import Path

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


def stage_folder(run: Path, stage: int) -> Path:
    """Folder of a stage."""
    return run / f"task_{stage:02d}"
