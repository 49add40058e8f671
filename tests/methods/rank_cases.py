"""Two tasks by several methods, as one process or as one of several: what ``test_ranks.py`` compares.

In float64, but for what models compute in float32 themselves; DeepSpeed has no such gradients. Cases of bfloat16 are
compared by how far the weights moved: sums of another order round to other numbers.

As a program, ``<file> <kind> …``, it is one of the processes that its environment names, and the first writes what it
found, with the weights split in each of the named ways (``whole``: not at all).
"""

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from clrft.config.run_config import build_config
from clrft.runner.same_run import check_same_run
from clrft.utils.progress import Silent
from eval.evaluate import evaluate
from methods.distributed import ranks
from methods.distributed.sharding import shard, whole
from methods.distributed.unsharded import whole_tensor
from methods.model.config import Decoding
from methods.settings import KAHAN, WIDE, TrainConfig
from methods.training.fit import APPLIED, FitSettings
from methods.training.optimizers import COMPENSATION
from methods.training.state import KIND
from task_streams import STREAMS, build_stream
from task_streams.errors import UserError
from task_streams.types import TaskStream
from tests.methods.two_tasks import base_of, fresh_policy, learned, made

TRAIN = TrainConfig(updates=2, prompts_per_update=4, warmup=0, max_completion_tokens=16, learning_rate=1e-5)
GROUP = {"group_size": 4}
# Cases that are run with split weights too, and whether activations are computed again in the backward pass.
SPLIT = {"sft": False, "rapo": True, "rapo accumulated, two updates on a batch": False}
# What parts of a batch may cost more than the whole: a prompt in two of them, a row that stands in for none.
COSTS = {"step_seconds", "prompt_tokens", "prompt_tokens_computed", "images", "model_flops"}
SAMPLED = {APPLIED}  # looks at other numbers where each process has a part of them
LOW = {f"sft in bfloat16, {optimizer}": optimizer for optimizer in (WIDE, KAHAN)}
# Method, settings of the learner, and what differs from TRAIN.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sft": ("sft", {}, {}),
    "sft accumulated, a last batch of one row": (
        "sft",
        {},
        {"accumulation": 2, "epochs": 1.0, "prompts_per_update": 6, "updates": 1},
    ),
    "sft with a penalty": ("sft+ewc", {}, {}),
    "grpo accumulated, one group for all": ("grpo", GROUP, {"accumulation": 2, "prompts_per_update": 1}),
    "rapo": ("rapo", GROUP, {"carry_optimizer": True}),
    "rapo accumulated, two updates on a batch": ("rapo", {**GROUP, "updates_per_batch": 2}, {"accumulation": 2}),
}


def found(name: str, stream: TaskStream, kind: str = "whole", double: bool = True) -> dict[str, Tensor]:
    """Weights, advantages, the running scale and every figure of a case, and answers after it, as tensors by name.

    ``kind``: how the weights are split among the processes.
    """
    words, own, differs = CASES["sft" if name in LOW else name]
    learner, _, part = words.partition("+")
    method = made(learner, part or None, own)()
    policy = fresh_policy(dtype="bfloat16", optimizer=LOW[name]) if name in LOW else fresh_policy()
    if double and name not in LOW:
        policy.model.double()
    if kind != "whole":
        shard(policy.model, kind)
        policy.config = dataclasses.replace(policy.config, gradient_checkpointing=SPLIT.get(name, False))
    base = base_of(method, policy)
    train = dataclasses.replace(TRAIN, **differs)
    advantages: list[Tensor] = []
    steps: list[dict[str, float]] = []
    normalize_advantages = method.normalize_advantages

    def kept(rewards: Tensor, rollouts: Any) -> Tensor:
        advantages.append(normalize_advantages(rewards, rollouts))
        return advantages[-1]

    method.normalize_advantages = kept  # type: ignore[method-assign]
    moments: dict[str, Tensor] = {}
    for index in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            fitted = learned(method, policy, stream, index, base, FitSettings(train, Path(folder)), moments)
        steps += fitted.steps
        moments = fitted.moments
    result = {name: whole_tensor(weight).detach().clone() for name, weight in policy.model.named_parameters()}
    if name in LOW:
        left = {key: moments.get(f"{key}{KIND}{COMPENSATION}", torch.zeros(())).double() for key in result}
        come = {key: weight.double() + left[key] for key, weight in result.items()}
        return come | {"applied": torch.tensor([row[APPLIED] for row in steps])}
    result |= {f"advantages {place}": one for place, one in enumerate(advantages)}
    result["scale"] = torch.tensor([method.state_dict().get("scale") or 0.0], dtype=torch.float64)
    figures = sorted(name for name in steps[-1] if all(name in row for row in steps) and name not in {*COSTS, *SAMPLED})
    result["figures"] = torch.tensor([[row[name] for name in figures] for row in steps], dtype=torch.float64)
    with whole(policy.model):
        result["answers"] = answers(policy, stream)
    return result


def answers(policy: Any, stream: TaskStream) -> Tensor:
    """The letters of sampled answers to a task's test items, in batches of three."""
    decoding = Decoding(12, temperature=0.7, seed=3)
    answered = evaluate(
        lambda requests: policy.generate(requests, decoding),
        stream.tasks[0],
        stream.tasks[0].seen,
        stage=2,
        task_of=dict.fromkeys(stream.labels, 1),
        batch_size=3,
        spread=ranks.Batches() if ranks.world_size() > 1 else None,
    )
    return torch.tensor(list("\n".join(f"{one.key} {one.completion}" for one in answered).encode()))


def small_stream() -> TaskStream:
    """Handwritten digits, two tasks, thirteen examples each: a pass does not end with a whole batch."""
    stream = build_stream("digits_cil", STREAMS["digits_cil"].config(shots=7, test_per_class=4, tasks=2), 1993)
    tasks = tuple(dataclasses.replace(task, train=task.train[:13]) for task in stream.tasks)
    return dataclasses.replace(stream, tasks=tasks)


def refusal() -> str:
    """What each process is told of a run whose second process has another seed and learning rate."""
    odd = ranks.rank() == 1
    config = build_config("digits_cil", "sft", seed=7 if odd else 1993)
    train = dataclasses.replace(config.train, learning_rate=3e-5 if odd else 1e-5)
    try:
        check_same_run(dataclasses.replace(config, train=train), Silent())
    except UserError as error:
        return "\n".join(error.problems)
    return ""


def main() -> None:
    """Run the cases as one of several processes; the first writes them into the file that is named."""
    torch.set_num_threads(1)
    ranks.join()
    file, *kinds = sys.argv[1:]
    stream = small_stream()
    cases = {}
    if "whole" in kinds:
        told = ranks.all_gather_json(refusal())
        cases = {f"told to {rank}": torch.tensor(list(text.encode())) for rank, text in enumerate(told)}
    for kind in kinds:
        for name in [*(CASES if kind == "whole" else SPLIT), *LOW]:
            values = found(name, stream, kind, double=kind != "zero3")
            cases |= {f"{name}, {kind}|{key}": value for key, value in values.items()}
    if ranks.is_rank0():
        save_file({key: value.contiguous() for key, value in cases.items()}, file)
    ranks.leave()


if __name__ == "__main__":
    main()
