"""A trainer, a batch of rollouts that it has scored, and what the model itself says about them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.base import Method, TaskContext
from methods.generation.group_passes import FrozenPrefixes, encoded
from methods.generation.shared_prefix import Prefix
from methods.inputs.media import token_types
from methods.inputs.prompts import Prompts
from methods.model.policy import Policy
from methods.settings import TrainConfig
from methods.training.fit import FitResult, FitSettings, build_trainer, fit
from task_streams.prompt import Request, request
from task_streams.types import Task, TaskStream
from tests.methods.two_tasks import base_of


def trainer_of(
    method: Method, policy: Policy, task: Task, folder: Path, anchor: Any = None, base: Any = None, **train: Any
) -> Any:
    """The trainer of one update of four prompts, if nothing else is said; the base is the policy as it is now."""
    budget = TrainConfig(**({"updates": 1, "prompts_per_update": 4} | train))
    context, settings = TaskContext(task, policy, anchor, seed=3), FitSettings(budget, folder)
    return build_trainer(method, context, base or base_of(method, policy), settings, [])


def learn(method: Method, policy: Policy, task: Task, folder: Path, seed: int = 3, **train: Any) -> FitResult:
    """Fit a task; anchor and base, where a method needs them, are the policy as it is now."""
    anchor = policy.snapshot() if "anchor" in method.needs else None
    context, settings = TaskContext(task, policy, anchor, seed), FitSettings(TrainConfig(**train), folder)
    return fit(method, context, base_of(method, policy), settings)


def scored(trainer: Any, seed: int = 5) -> dict[str, Any]:
    """One generation batch, sampled and scored."""
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    torch.manual_seed(seed)
    return dict(trainer._generate_and_score_completions(batch))


def prompt_length(policy: Policy, asked: Request) -> int:
    """Tokens of a prompt, those of its images and clips included."""
    return int(policy.encode([asked])["input_ids"].shape[1])


def whole_rows(output: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Prompts and completions, and their mask, [N, P + L] each."""
    ids, mask = (torch.cat([output[f"prompt_{kind}"], output[f"completion_{kind}"]], dim=1) for kind in ("ids", "mask"))
    return ids, mask


def own_logps(model: Any, trainer: Any, output: dict[str, Any]) -> Tensor:
    """Log-probabilities of the completions by the model's plain forward, [N, L]."""
    ids, mask = whole_rows(output)
    types = token_types(ids, model.config)
    fields = trainer.generation.batch.repeated(torch.arange(len(ids))) | {"mm_token_type_ids": types}
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, **fields).logits
    length = output["completion_ids"].shape[1]
    logps = logits[:, -length - 1 : -1].log_softmax(dim=-1)
    return logps.gather(2, output["completion_ids"].unsqueeze(2)).squeeze(2)  # type: ignore[no-any-return]


def both_paths(trainer: Any, output: dict[str, Any], order: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the real tokens of a batch, shuffled if no order is given: shared, and plain.

    The two are the same, as are the entropies, which is tested here.
    """
    ids, mask = whole_rows(output)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0)) if order is None else order
    trainer.generation.rows = order
    real, results = output["completion_mask"][order].bool(), []
    for share in (True, False):
        trainer.share_prefix = share
        assert trainer._shares(trainer.model) == share
        logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids[order], mask[order], real.shape[1], compute_entropy=True
        )
        results.append((logps[real], entropies[real]))
    (shared, shared_entropy), (plain, plain_entropy) = results
    assert torch.allclose(shared, plain, rtol=1e-5, atol=1e-5)
    assert torch.allclose(shared_entropy, plain_entropy, rtol=1e-4, atol=1e-5)
    return shared, plain


def assert_same_gradients(one: Tensor, other: Tensor, weights: Sequence[Tensor]) -> None:
    """The gradients of two sums are the same, and some weights have one."""
    mine, theirs = (torch.autograd.grad(values.sum(), weights, allow_unused=True) for values in (one, other))
    used = [(a, b) for a, b in zip(mine, theirs, strict=True) if b is not None]
    assert used
    for a, b in used:
        assert a is not None
        assert (a - b).norm() <= 1e-5 * max(float(b.norm()), 1.0)


def checkpoint_layers(policy: Policy) -> None:
    """As a trainer switches it on."""
    policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if policy.has_adapter:
        policy.model.enable_input_require_grads()


def trained(policy: Policy) -> list[Tensor]:
    """Weights that are trained."""
    return [weight for weight in policy.model.parameters() if weight.requires_grad]


class Asked:
    """The prompts of a task, in parts of three."""

    def __init__(self, policy: Policy, stream: TaskStream) -> None:
        self.policy = policy
        # one prompt in two lists fewer classes, so that lengths differ
        lists = (stream.labels, stream.labels[:3])
        examples = stream.tasks[1].train[:8]
        self.requests = [request(example, lists[place % 2]) for place, example in enumerate(examples)]

    def prompts(self, places: list[int]) -> tuple[tuple[str, ...], Prompts]:
        rows = [
            {"prompt": one.messages, "images": list(one.images), "key": one.key}
            for one in (self.requests[place] for place in places)
        ]
        prompts = encoded(rows, self.policy.processor, self.policy.model.config, self.policy.device)
        return tuple(str(row["key"]) for row in rows), prompts

    def memory(self, limit: int) -> FrozenPrefixes:
        return FrozenPrefixes(lambda: map(self.prompts, ([0, 1, 2], [3, 4, 5], [6, 7])), limit)


def assert_equal(one: Prefix, other: Prefix, tolerance: float = 2e-5) -> None:
    """Prefixes are the same where tokens are."""
    assert torch.equal(one.mask, other.mask) and torch.equal(one.next_position, other.next_position)
    assert torch.allclose(one.last, other.last, atol=tolerance)
    real = one.mask.bool()
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert torch.allclose(a.transpose(1, 2)[real], b.transpose(1, 2)[real], atol=tolerance)
