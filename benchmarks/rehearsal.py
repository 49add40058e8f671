"""The paper's own configurations on a model that is small enough for this machine, each beside the same in float32.

    python benchmarks/rehearsal.py DATA --output benchmarks/results/rehearsal.json

One stream each of the sweeps image_cil, image_dil, video_cil and detection_cil, as shipped: prompts, types, optimizer,
learning rate, schedule, epochs, lengths. In place of the checkpoint is the embedded model, in place of the data are the
samples in DATA (``tinyimagenet``, ``pacs``, ``clips_mini``, ``coco_mini``). That it ends on a CPU, two tasks are
learned (``--tasks``), one item of each class is tested, and ``--updates`` may bound a task's training.

Told of each run: the movement of its weights beside that of the same run in float32 (cosine, ratio of norms), the least
share of an update that reached the weights, completions that were cut, replies without the form that was asked for, and
prompts over the limit. The embedded model's tokenizer makes more tokens of a text than Qwen's: where prompts exceed the
limit for that alone, it is raised, and told. Of COCO two answers are longer than the limit in its tokens and are cut,
and an update has 4 prompts, since the sample has few images of a task.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clrft.base_model import default_model_path
from clrft.config.run_config import RunConfig, build_config, config_of, merge
from clrft.runner.prepare import looked_at, prepare
from clrft.runner.run import open_folder
from clrft.runner.stage import learn_stage
from clrft.runner.state import Run
from clrft.runs.provenance import circumstances
from clrft.runs.read import read_predictions
from clrft.utils.files import read_json
from clrft.utils.progress import Silent
from clrft.utils.quiet import quiet_environment, quiet_libraries
from methods.inputs.admission import Admission
from methods.inputs.encoding import encoded_requests
from methods.model.policy import load_processor
from methods.settings import KAHAN
from methods.training.fit import APPLIED, StepRow
from methods.training.optimizers import COMPENSATION
from methods.training.state import KIND
from task_streams import STREAMS, Workspace, build_stream
from task_streams.prompt import request

# Sweep: preset of a stream, preset of a model, the stream in whose form the samples are, with its own settings, and
# settings of the training that the samples ask for.
SAMPLES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "image_cil": (
        "tinyimagenet_10x20",
        "qwen2_vl_2b",
        {"name": "table_cil", "train": "tinyimagenet/train_5shots.parquet", "test": "tinyimagenet/val_5each.parquet"},
        {},
    ),
    "image_dil": (
        "pacs",
        "qwen2_vl_2b",
        {"name": "table_dil", "train": "pacs/train.parquet", "test": "pacs/test.parquet"},
        {},
    ),
    "video_cil": (
        "ucf101_5",
        "qwen2_vl_2b",
        {"name": "clips_cil", "root": "clips_mini", "first_classes": 3, "classes_per_task": 2},
        {},
    ),
    "detection_cil": (
        "coco_5x16",
        "qwen2_vl_7b",
        {"name": "coco_cil", "root": "coco_mini"},
        {"allow_cut_answers": True, "prompts_per_update": 4, "accumulation": 4},
    ),
}
PATHS = ("train", "test", "root")  # settings that name files of the samples
METHODS = ("sft", "grpo", "rapo")
# Ways to hold weights, by their settings: as shipped, in the memory that there is; with half of it; the yardstick.
WAYS: dict[str, dict[str, Any]] = {
    "float32": {"model": {"dtype": "float32"}},
    "as shipped": {},
    KAHAN: {"train": {"optimizer": KAHAN}},
}
LIMIT = "max_prompt_tokens"
REACHES = 8192  # tokens of a prompt, as the limit where the tokenizer exceeds that of the preset


def rehearsed(sweep: str, method: str, data: Path, output: Path, layers: Sequence[Mapping[str, Any]]) -> RunConfig:
    """A cell of a sweep with the embedded model and the samples of data."""
    stream, model, own, _ = SAMPLES[sweep]
    shipped = build_config(stream, method, model, 1993).to_dict()
    asked = {field.name for field in fields(STREAMS[own["name"]].config)}
    kept = {name: value for name, value in shipped["stream"].items() if name in asked}
    placed = {name: str(data / value) if name in PATHS else value for name, value in own.items()}
    shipped["stream"] = {**kept, **placed, "label": stream}
    size = {
        "model": {"path": None, "device": "cpu"},
        "stream": {"test_per_class": 1},
        "evaluate": {"probe": 0, "drift_prompts": 0, "final_list": False, "batch_size": 8},
        "run": {"output": str(output), "mlflow": False, "checkpoint_every": 0, "check_memory": False},
    }
    return config_of(merge(shipped, size, *layers))


def prompt_lengths(config: RunConfig) -> list[int]:
    """Tokens of the longest prompts of every task, all classes listed."""
    workspace = Workspace(cache=Path(config.run.output) / ".cache")
    stream = build_stream(config.stream_name, config.stream, config.seed, workspace)
    processor = load_processor(config.model, str(default_model_path()))
    longest = looked_at(stream, Admission(processor))
    requests = (request(example, stream.labels, stream.tasks[0].style) for example in longest)
    encoded = (encoded_requests(processor, [one], config.model.media) for one in requests)
    return [int(batch["attention_mask"].sum()) for batch in encoded]


def held(state: Run) -> Tensor:
    """All weights, and what is left over for them, flat, in float64."""
    parts = []
    for name, weight in state.policy.model.named_parameters():
        left = state.moments.get(f"{name}{KIND}{COMPENSATION}")
        value = weight.detach().double().flatten()
        parts.append(value if left is None else value + left.double().flatten())
    return torch.cat(parts)


def learned(config: RunConfig, tasks: int) -> tuple[Tensor, dict[str, Any]]:
    """Movement of the weights over the first tasks, and what was noticed on the way."""
    state = prepare(config, Silent())
    open_folder(state)
    start = held(state)
    rows: list[StepRow] = []
    for stage in range(1, tasks + 1):
        learn_stage(state, stage, rows.append)
    answers = [one for stage in range(1, tasks + 1) for one in read_predictions(state.folder, stage)]
    shares = [row[APPLIED] for row in rows if APPLIED in row]
    found = {
        "model": state.policy.numerics.describe(),
        "updates": len(rows),
        "least_update_applied": min(shares, default=None),
        "tests_without_answer": sum(one.answer is None for one in answers) / len(answers),
        **{name: mean_of(rows, name) for name in ("completion_clipped", "completion_length", "reward_format")},
    }
    return held(state) - start, found


def mean_of(rows: Sequence[StepRow], name: str) -> float | None:
    """Mean of a figure over updates; None for a method that has none."""
    values = [row[name] for row in rows if name in row]
    return statistics.fmean(values) if values else None


def compared(sweep: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """One method of a sweep in every way, beside float32."""
    layers: list[dict[str, Any]] = [{"train": SAMPLES[sweep][3]}]
    layers += [{"train": {"epochs": None, "updates": options.updates}}] if options.updates else []
    with tempfile.TemporaryDirectory() as scratch:
        config = rehearsed(sweep, method, options.data, Path(scratch), layers)
        limit, lengths = config.train.max_prompt_tokens, prompt_lengths(config)
        over = sum(length > limit for length in lengths)
        result: dict[str, Any] = {
            "stream": config.stream_label,
            "prompt": config.stream.prompt,
            "prompts": {"longest": max(lengths), "limit": limit, "over": over, "looked_at": len(lengths)},
        }
        layers += [{"train": {LIMIT: REACHES}}] if over else []
        yardstick = None
        for way, words in WAYS.items():
            own = rehearsed(sweep, method, options.data, Path(scratch) / way, [*layers, words])
            moved, result[way] = learned(own, options.tasks)
            yardstick = moved if yardstick is None else yardstick
            if yardstick.any():  # else nothing was learned: rewards were all equal
                cosine = torch.nn.functional.cosine_similarity(moved, yardstick, dim=0).item()
                result[way] |= {"cosine": cosine, "norm": (moved.norm() / yardstick.norm()).item()}
            print(f"{sweep} {method}, {way}: {json.dumps(result[way])}", flush=True)
    return result


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the samples")
    parser.add_argument("--sweeps", nargs="+", default=list(SAMPLES), choices=list(SAMPLES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--updates", type=int, help="of each task, in place of the epochs of the preset")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    quiet_environment()
    quiet_libraries()
    known = read_json(options.output)["results"] if options.output and options.output.exists() else {}
    words = ["python -m benchmarks.rehearsal", *("DATA" if one == str(options.data) else one for one in sys.argv[1:])]
    for sweep in options.sweeps:
        for method in options.methods:
            # each with its own command and code: a file may hold the results of several calls
            told = {"command": " ".join(words), **circumstances()}
            known[f"{sweep} {method}"] = {**told, **compared(sweep, method, options)}
            if options.output:
                options.output.write_text(json.dumps({"results": known}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
