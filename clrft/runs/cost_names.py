"""Names of what a stage's activities cost, as ``metrics.json`` and tables have them; light to import.

The counts are those of ``methods/costs/meter.py``, which is not imported here because it loads torch.
"""

TRAIN, EVALUATE, DRIFT = ACTIVITIES = ("train", "evaluate", "drift")
COUNTS = ("prompt_tokens", "prompt_tokens_computed", "tokens_generated", "tokens_trained", "images", "model_flops")
WALL, CPU, GPU = SECONDS = ("wall_seconds", "cpu_seconds", "gpu_seconds")
FIGURES = (*COUNTS, *SECONDS)
MEMORY = ("peak_memory_mb", "peak_gpu_memory_mb")
