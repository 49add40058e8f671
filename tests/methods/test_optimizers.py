"""What AdamW means to add to the weights arrives there, at the learning rate of the papers, in every type.

Two tasks of twelve updates at 1e-6. Beside the training, float64 sums up what AdamW means, from the same gradients.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from methods.model.policy import Policy
from methods.settings import KAHAN, LOST_BELOW, PLAIN, WIDE, TrainConfig
from methods.training.fit import APPLIED, FitSettings
from methods.training.optimizers import COMPENSATION, KahanAdamW
from methods.training.state import KIND
from task_streams import STREAMS, build_stream
from tests.methods.two_tasks import base_of, fresh_policy, learned, made

TRAIN = TrainConfig(
    updates=12, prompts_per_update=4, warmup=0, learning_rate=1e-6, max_completion_tokens=24, weight_decay=0.01
)
METHODS: dict[str, dict[str, Any]] = {"sft": {}, "rapo": {"group_size": 4}}
# Of a checkpoint in a type, trained whole or by an adapter, with an optimizer.
WAYS = {
    "float32": ("float32", "none", PLAIN),
    "float32, LoRA": ("float32", "lora", PLAIN),
    "bfloat16, adamw_float32": ("bfloat16", "none", WIDE),
    "bfloat16, adamw_kahan": ("bfloat16", "none", KAHAN),
    "bfloat16, adamw": ("bfloat16", "none", PLAIN),
    "bfloat16, LoRA": ("bfloat16", "lora", PLAIN),
}


class Meant:
    """AdamW by its formula, in float64, from the gradients that optimizers get; sums up its updates."""

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}
        self.moments: dict[tuple[int, int], list[Tensor]] = {}
        self.counts: dict[tuple[int, int], int] = {}
        self.optimizers: list[Any] = []  # kept, so that no other gets the id of one

    @torch.no_grad()
    def __call__(self, optimizer: Any, *_: Any) -> None:
        self.optimizers.append(optimizer)
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                key = (id(optimizer), id(weight))
                gradient = weight.grad.double()
                mean, square = self.moments.setdefault(key, [torch.zeros_like(gradient) for _ in range(2)])
                count = self.counts[key] = self.counts.get(key, 0) + 1
                first, second = group["betas"]
                mean.mul_(first).add_(gradient, alpha=1 - first)
                square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
                root = (square / (1 - second**count)).sqrt() + group["eps"]
                update = -group["lr"] * (mean / (1 - first**count) / root + group["weight_decay"] * weight.double())
                self.sums[id(weight)] = self.sums.get(id(weight), 0) + update


def held(policy: Policy, moments: dict[str, Tensor]) -> dict[str, Tensor]:
    """Trained weights with what is left over for them, in float64."""
    return {
        name: weight.detach().double() + moments.get(f"{name}{KIND}{COMPENSATION}", torch.zeros(())).double()
        for name, weight in policy.model.named_parameters()
        if weight.requires_grad
    }


@lru_cache
def trained(name: str, way: str, folder: Path) -> tuple[Tensor, Tensor, list[float]]:
    """What two tasks move, with what is left over, and what AdamW meant, flat, in float64; shares that were applied."""
    dtype, adapter, optimizer = WAYS[way]
    policy, method = fresh_policy(adapter, dtype, optimizer), made(name, learner_settings=METHODS[name])()
    stream = build_stream("digits_cil", STREAMS["digits_cil"].config(shots=8, test_per_class=1, tasks=2), 1993)
    base = base_of(method, policy)
    start, moments, applied, meant = held(policy, {}), {}, [], Meant()
    watching = register_optimizer_step_pre_hook(meant)
    try:
        for index in (1, 2):
            fitted = learned(method, policy, stream, index, base, FitSettings(TRAIN, folder), moments)
            moments = fitted.moments
            applied += [row[APPLIED] for row in fitted.steps if APPLIED in row]
    finally:
        watching.remove()
    end = held(policy, moments)
    sums = [meant.sums[id(one)].flatten() for one in policy.model.parameters() if one.requires_grad]
    moved = torch.cat([(end[key] - start[key]).flatten() for key in start])
    return moved, torch.cat(sums), applied


def close(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Cosine, and the ratio of the norms."""
    return torch.nn.functional.cosine_similarity(one, other, dim=0).item(), (one.norm() / other.norm()).item()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("optimizers")


@pytest.mark.parametrize("way", [way for way in WAYS if way != "bfloat16, adamw"])
@pytest.mark.parametrize("name", METHODS)
def test_weights_move_as_adamw_means_them_to(name: str, way: str, folder: Path) -> None:
    moved, meant, applied = trained(name, way, folder)
    cosine, ratio = close(moved, meant)
    assert cosine > 0.999 and abs(ratio - 1) < 0.01
    assert min(applied) > LOST_BELOW and len(applied) == 24


@pytest.mark.parametrize("name", METHODS)
def test_weights_of_bfloat16_alone_lose_nearly_all_of_it_and_the_figure_tells(name: str, folder: Path) -> None:
    moved, meant, applied = trained(name, "bfloat16, adamw", folder)
    cosine, ratio = close(moved, meant)
    assert cosine < 0.3 and ratio < 0.3 and max(applied) < 0.1


@pytest.mark.parametrize(
    ("way", "reference", "least", "off"),
    [
        ("bfloat16, adamw_float32", "float32", 0.99, 0.03),
        ("bfloat16, adamw_kahan", "float32", 0.95, 0.05),
        ("bfloat16, LoRA", "float32, LoRA", 0.99, 0.03),
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_learns_what_float32_learns(
    name: str, way: str, reference: str, least: float, off: float, folder: Path
) -> None:
    cosine, ratio = close(trained(name, way, folder)[0], trained(name, reference, folder)[0])
    assert cosine > least and abs(ratio - 1) < off


def test_a_weight_that_an_update_left_out_is_moved_once_by_the_next() -> None:
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    group = {"params": weights, "lr": 0.1, "betas": (0.9, 0.999), "eps": 0.0, "weight_decay": 0.0}
    optimizer = KahanAdamW([group])
    for graded in (weights[:1], weights):
        for weight in graded:
            weight.grad = torch.ones(1)
        optimizer.step()
    # under a constant gradient each of AdamW's updates is the rate along its sign: two of the first, one of the second
    assert [weight.item() for weight in weights] == pytest.approx([0.8, 0.9])
