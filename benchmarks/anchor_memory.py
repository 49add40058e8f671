"""Memory of the anchor: with LoRA a second adapter beside the trained one, else a full copy of the model.

Measured for the embedded model and for the geometry of Qwen2-VL-2B-Instruct with random weights in bfloat16. Bytes are
those of all parameters and buffers; resident memory is what the process holds without pages of files that are mapped.
Every case is a process of its own. Of the embedded model the anchor's gradients and moments are counted too, after
real updates beside it.

    python benchmarks/anchor_memory.py --output benchmarks/results/anchor_memory.json
"""

import argparse
import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from transformers import AutoModelForImageTextToText, Qwen2VLConfig

from clrft.base_model import default_model_path
from clrft.config.run_config import build_config
from clrft.runs.provenance import circumstances
from clrft.utils.quiet import quiet_environment, quiet_libraries
from methods import build_method
from methods.algorithms.rapo import RapoConfig
from methods.base import TaskContext
from methods.model.config import ModelConfig
from methods.model.policy import Policy, load_policy, lora_config
from methods.model.snapshots import Snapshot
from methods.settings import TrainConfig
from methods.training.anchor_check import anchor_weights
from methods.training.fit import FitSettings, fit
from task_streams import STREAMS, build_stream

LIMIT = 5.0  # percent of the model's memory
RANKS = (4, 8, 16)
TRAIN = TrainConfig(updates=2, prompts_per_update=4, warmup=0)
CASES = (
    *((f"embedded model, LoRA rank {rank}", "tiny", {"adapter": "lora", "lora_rank": rank}) for rank in RANKS),
    ("embedded model, full copy", "tiny", {"adapter": "none"}),
    ("2B geometry, LoRA as configured", "qwen2_vl_2b_lora", {}),
    ("2B geometry, full copy", "qwen2_vl_2b_lora", {"adapter": "none"}),
)


def main() -> None:
    """Measure, print, and write the figures; with --one measure one case and print its figures only."""
    options = arguments().parse_args()
    if options.one:
        print(json.dumps(measured(*json.loads(options.one))))
        return
    figures = [report(*case) for case in CASES]
    if options.output:
        facts = circumstances()
        body = {"command": "python benchmarks/anchor_memory.py", "limit_percent": LIMIT, "figures": figures}
        Path(options.output).write_text(json.dumps({**body, **facts}, indent=1) + "\n")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help="JSON file for the figures")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


def report(title: str, preset: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One case, measured in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps([preset, settings])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    figures = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{title:34} model {figures['model_mb']:7.1f} MB   anchor {figures['anchor_mb']:7.1f} MB "
        f"({figures['anchor_percent']:6.2f} %)   resident {figures['resident_before_mb']:6.0f} -> "
        f"{figures['resident_after_mb']:6.0f} MB",
        flush=True,
    )
    return {"case": title, **figures}


def measured(preset: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Memory before and after a snapshot of the policy that a preset of a model and some settings stand for."""
    quiet_environment()
    quiet_libraries()
    config = dataclasses.replace(
        build_config("digits_cil", "sft", preset, 1993, {"model": {"device": "cpu", **settings}}).model
    )
    embedded = preset == "tiny"
    policy = load_policy(config, str(default_model_path())) if embedded else random_policy(config)
    policy.snapshot()  # what the first one alone brings (imports, PEFT's tables) is not the anchor's
    policy = without_anchor(policy)
    before, resident = bytes_of(tensors_of(policy.model)), settled("RssAnon")
    reset_peak()
    snapshot = policy.snapshot()
    peak, held = status("VmHWM") - status("RssFile"), settled("RssAnon")
    extra = bytes_of([*tensors_of(policy.model), *tensors_of(snapshot.model)]) - before
    own = [weight for _, weight in anchor_weights(snapshot)]
    model = before if config.adapter == "none" else before - extra  # without the trained adapter
    return {
        "adapter": config.adapter,
        "rank": config.lora_rank if config.adapter == "lora" else None,
        "parameters": sum(weight.numel() for weight in policy.model.parameters()),
        "bytes_before": before,
        "bytes_after": before + extra,
        "model_mb": model / 2**20,
        "anchor_mb": extra / 2**20,
        "anchor_percent": 100 * extra / model,
        "anchor_dtypes": dict(Counter(str(weight.dtype).removeprefix("torch.") for weight in own)),
        "model_dtypes": dict(Counter(str(weight.dtype).removeprefix("torch.") for weight in policy.model.parameters())),
        "resident_before_mb": resident,
        "resident_after_mb": held,
        "resident_peak_mb": peak,
        "resident_percent": 100 * (held - resident) * 2**20 / model,
        "second_snapshot_bytes": second_snapshot(policy, snapshot, before + extra),
        **(kept_by_training(policy, snapshot) if embedded else {}),
    }


def random_policy(config: ModelConfig) -> Policy:
    """A policy of the 2B geometry with random weights, and the adapter that the settings ask for; no processor."""
    model: Any = AutoModelForImageTextToText.from_config(geometry_2b(), dtype=getattr(torch, config.dtype))
    model = get_peft_model(model, lora_config(config)) if config.adapter == "lora" else model
    return Policy(model, None, config, "sdpa")


def geometry_2b() -> Qwen2VLConfig:
    """The published sizes of Qwen2-VL-2B-Instruct; its rotary sections are 16, 24, 24."""
    return Qwen2VLConfig(
        text_config={
            "hidden_size": 1536,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "intermediate_size": 8960,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision_config={
            "depth": 32,
            "embed_dim": 1280,
            "num_heads": 16,
            "hidden_size": 1536,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "mlp_ratio": 4,
        },
        tie_word_embeddings=True,
    )


def without_anchor(policy: Policy) -> Policy:
    """The policy as it was before any snapshot."""
    if policy.has_adapter:
        policy.model.delete_adapter("anchor")
    return policy


def tensors_of(model: torch.nn.Module) -> list[Tensor]:
    """All parameters and buffers."""
    return [*model.parameters(), *model.buffers()]


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each counted once."""
    return sum(one.nbytes for one in {id(one): one for one in tensors}.values())


def second_snapshot(policy: Policy, first: Snapshot, bytes_before: int) -> int | None:
    """Bytes that the snapshot of the next boundary adds beside an adapter's first; None where the first one goes."""
    if not policy.has_adapter:
        return None
    again = policy.snapshot()
    return bytes_of([*tensors_of(policy.model), *tensors_of(again.model), *tensors_of(first.model)]) - bytes_before


def kept_by_training(policy: Policy, anchor: Snapshot) -> dict[str, Any]:
    """What real updates of RaPO beside the anchor leave for its weights: gradients and the optimizer's moments."""
    task = build_stream("digits_cil", STREAMS["digits_cil"].config(shots=8, test_per_class=4), 1993).tasks[1]
    anchored = {id(one) for one in anchor_parameters(anchor)}
    moments: Counter[str] = Counter()

    def look(optimizer: Optimizer, *_: Any) -> None:
        moments.clear()
        for weight, state in optimizer.state.items():
            whose = "anchor" if id(weight) in anchored else "policy"
            moments[whose] += bytes_of(one for one in state.values() if isinstance(one, Tensor))

    handle = register_optimizer_step_post_hook(look)
    with tempfile.TemporaryDirectory() as scratch:
        context = TaskContext(task, policy, anchor, seed=3)
        reference = None if policy.has_adapter else policy.snapshot()
        fit(build_method("rapo", RapoConfig()), context, reference, FitSettings(TRAIN, Path(scratch)))
    handle.remove()
    gradients = bytes_of(one.grad for one in anchor_parameters(anchor) if one.grad is not None)
    return {
        "moments_of_policy_mb": moments["policy"] / 2**20,
        "moments_of_anchor_bytes": moments["anchor"],
        "gradients_of_anchor_bytes": gradients,
    }


def anchor_parameters(anchor: Snapshot) -> list[Tensor]:
    """The anchor's own parameters: those of the adapter or of the copy."""
    names = {name for name, _ in anchor_weights(anchor)}
    return [weight for name, weight in anchor.model.named_parameters() if name in names]


def settled(kind: str) -> float:
    """Megabytes of this process after what is free has gone back to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return status(kind)


def status(kind: str) -> float:
    """Megabytes of this process, by the kernel's account (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[kind].split()[0]) / 1024


def reset_peak() -> None:
    """Let the kernel count the highest resident memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
