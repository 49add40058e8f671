"""Log-probabilities of given completions: without gradients (anchor, reference), and with a backward pass (actor)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.engine.memory import module_tensors
from benchmarks.engine.models import load
from benchmarks.engine.options import Options
from benchmarks.engine.pairs import Case, Contender, Turn
from benchmarks.engine.step import axes
from benchmarks.engine.trainers import fit_settings, without_reference
from benchmarks.engine.workload import grouped_prompts, workload
from methods.generation.completion_logps import completion_states, token_logps
from methods.generation.shared_prefix import prefill
from methods.inputs.prompts import Prompts
from methods.model.policy import Policy

NAMES = ("stock", "ours")  # the plain path of ours is TRL's own function
NATURAL = 17  # tokens of a right completion of the embedded model

Score = Callable[[], Tensor]  # log-probabilities, [N, L]


def cases(options: Options, scratch: Path) -> Iterator[Case]:
    """The two cases that the options describe; completions all have one length."""
    asked = [name for name in NAMES if not options.only or name in options.only]
    length = options.completion_tokens or NATURAL
    policies = {name: load(options, stock=name == "stock") for name in asked}
    work = workload(options, policies[asked[0]].processor)
    scores = {}
    for name, policy in policies.items():
        prompts, rows = grouped_prompts(policy, work, options)
        completions = some_tokens(policy, len(rows), length)
        if name == "stock":
            settings = fit_settings(options, work, scratch, share_prefix=False)
            trainer = without_reference(policy, work, options, settings)
            scores[name] = by_trl(trainer, prompts.select(rows), completions)
        else:
            scores[name] = by_ours(policy, prompts, rows, completions)
    where = {**axes(options, work), "completion_tokens": length}
    tokens = options.prompts * options.group * length
    for title, way in (("log-probabilities", without_gradients), ("log-probabilities and backward", with_gradients)):
        contenders = [contender(name, policies[name], way(policies[name], scores[name], tokens)) for name in asked]
        yield Case(title, where, asked[0], contenders)


def contender(name: str, policy: Policy, take: Callable[[], Turn]) -> Contender:
    """A contender that holds its weights."""
    return Contender(name, take, policy, lambda: module_tensors(policy.model))


def some_tokens(policy: Policy, rows: int, length: int) -> Tensor:
    """Completions of ordinary tokens, [N, L]; the same for every policy."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(4, 200, (rows, length), generator=generator).to(policy.device)


def by_trl(trainer: Any, prompts: Prompts, completions: Tensor) -> Score:
    """TRL's own function, on prompts and completions side by side."""
    mask = torch.ones_like(completions)
    types = torch.cat([prompts.token_types, torch.zeros_like(completions)], dim=1)
    images = {"num_images": [1] * len(completions), **prompts.fields}

    def score() -> Tensor:
        logps: Tensor
        logps, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([prompts.ids, completions], dim=1),
            torch.cat([prompts.mask, mask], dim=1),
            completions.shape[1],
            batch_size=trainer.args.per_device_train_batch_size,
            mm_token_type_ids=types,
            **images,
        )
        return logps

    return score


def by_ours(policy: Policy, prompts: Prompts, rows: Tensor, completions: Tensor) -> Score:
    """Each prompt once."""
    mask = torch.ones_like(completions)

    def score() -> Tensor:
        hidden = completion_states(policy.model, prefill(policy.model, prompts), rows, completions, mask)
        return token_logps(policy.model, hidden, completions, mask, 1.0)[0]

    return score


def without_gradients(policy: Policy, score: Score, tokens: int) -> Callable[[], Turn]:
    """As anchor and reference are asked."""

    def take() -> Turn:
        with torch.no_grad():
            score()
        return Turn(tokens=tokens)

    return take


def with_gradients(policy: Policy, score: Score, tokens: int) -> Callable[[], Turn]:
    """As the actor is trained: the gradients of their sum."""

    def take() -> Turn:
        score().sum().backward()  # type: ignore[no-untyped-call]
        policy.model.zero_grad(set_to_none=True)
        return Turn(tokens=tokens)

    return take
