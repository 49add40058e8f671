"""Sampling alone: the completions of a batch of groups whose prompts are encoded already."""

from collections.abc import Iterator, Sequence
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
from methods.generation.rollout import Sampling, sample_after
from methods.generation.shared_prefix import prefill
from methods.generation.static_decode import sample_static
from methods.inputs.media import never_sampled
from methods.inputs.prompts import Prompts
from methods.model.config import Decoding
from methods.model.policy import Policy, generation_arguments
from methods.model.weights import clear_rope_state

NAMES = ("stock", "plain", "ours")


def cases(options: Options, scratch: Path) -> Iterator[Case]:
    """The one case that the options describe: TRL's rollout, transformers' ``generate``, ours."""
    asked = [name for name in NAMES if not options.only or name in options.only]
    policy = load(options)
    work = workload(options, policy.processor)
    prompts, rows = grouped_prompts(policy, work, options)
    each = prompts.select(rows)
    contenders = []
    for name in asked:
        own = load(options, stock=True) if name == "stock" else policy
        if name == "stock":
            settings = fit_settings(options, work, scratch, share_prefix=False)
            take = by_trl(without_reference(own, work, options, settings), each, options)
        else:
            take = by_generate(own, each, options) if name == "plain" else by_ours(own, prompts, rows, options)
        contenders.append(Contender(name, take, own, lambda own=own: module_tensors(own.model)))  # type: ignore[misc]
    yield Case("rollout", axes(options, work), asked[0], contenders)


def by_trl(trainer: Any, prompts: Prompts, options: Options) -> Any:
    """TRL's own way from encoded prompts to completions."""
    ids = [row[mask.bool()].tolist() for row, mask in zip(prompts.ids, prompts.mask, strict=True)]
    types = [row[mask.bool()].tolist() for row, mask in zip(prompts.token_types, prompts.mask, strict=True)]
    fields = {**prompts.fields, "mm_token_type_ids": types}
    trainer.model.train()

    def take() -> Turn:
        completions, _ = trainer._generate_single_turn(ids, None, dict(fields), options.group)
        return sampled_turn(completions)

    return take


def by_generate(policy: Policy, prompts: Prompts, options: Options) -> Any:
    """Transformers' ``generate`` on the rows as they are: the plain path."""
    inputs = {"input_ids": prompts.ids, "attention_mask": prompts.mask, "mm_token_type_ids": prompts.token_types}
    decoding = Decoding(options.completion_limit, temperature=1.0)
    arguments = generation_arguments(decoding, policy.model.config)
    ends = torch.tensor(policy.ends, device=policy.device)

    def take() -> Turn:
        clear_rope_state(policy.model)
        with torch.no_grad():
            tokens = policy.model.generate(**inputs, **prompts.fields, **arguments)
        clear_rope_state(policy.model)
        return sampled_turn(until_end(tokens[:, prompts.ids.shape[1] :], ends))

    return take


def by_ours(policy: Policy, prompts: Prompts, rows: Tensor, options: Options) -> Any:
    """Each prompt once."""
    never = never_sampled(policy.model.config)
    sampling = Sampling(options.completion_limit, 1.0, 1.0, tuple(policy.ends), never)
    steps = policy.session().steps

    def take() -> Turn:
        with torch.no_grad():
            prefix = prefill(policy.model, prompts)
        if steps is not None:
            return sampled_turn(sample_static(steps, policy.model, prefix, rows, sampling))
        return sampled_turn(sample_after(policy.model, prefix.repeated(rows), sampling))

    return take


def until_end(tokens: Tensor, ends: Tensor) -> list[list[int]]:
    """Rows of tokens up to the first that ends them, which is part of them, [N, L]."""
    over = torch.isin(tokens, ends).cumsum(dim=1)
    before = (over - torch.isin(tokens, ends).to(over.dtype)) == 0
    return [row[kept].tolist() for row, kept in zip(tokens.cpu(), before.cpu(), strict=True)]


def sampled_turn(*batches: Sequence[Sequence[int]]) -> Turn:
    """What batches of completions came to; the first token of each is sampled before any decoding step."""
    lengths = [[len(row) for row in batch] for batch in batches]
    return Turn(
        tokens=sum(map(sum, lengths)),
        decode_steps=sum(max(batch) - 1 for batch in lengths),
        decoded=sum(sum(batch) - len(batch) for batch in lengths),
    )
