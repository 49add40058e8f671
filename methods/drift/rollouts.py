"""Rollouts of a policy, and what two policies say about them: the passes behind ``measure.py``.

Where the model allows it a group's prompt is computed once (``shared_prefix.py``); otherwise prompts are repeated and
transformers' own ``generate`` and forward pass are used. Both give the same tokens and the same numbers. Distributions
over the vocabulary exist for a bounded number of tokens at a time. Nothing here has gradients.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from methods.costs.meter import meter_of
from methods.costs.pass_sizes import LARGEST
from methods.drift.items import exact_kl
from methods.generation.completion_logps import completion_states
from methods.generation.rollout import Sampling, ended, right_padded, sample_after
from methods.generation.shared_prefix import Prefix, plain, prefill
from methods.inputs.media import never_sampled
from methods.inputs.prompts import Prompts
from methods.model.config import Decoding
from methods.model.policy import Policy, generation_arguments
from methods.model.weights import clear_rope_state
from methods.training.views import TYPE_FIELDS
from task_streams.prompt import Request

Tokens = list[list[int]]


@dataclass(frozen=True, slots=True)
class Party:
    """One of the policies that are compared."""

    name: str  # of it
    # the module to call, in force inside of the block; entered often, so it must be cheap
    use: Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Seen:
    """Rollouts as the policy that made them and another one see them, every generated token in its order."""

    kl: Tensor  # KL(maker || other) at each token, [tokens]
    maker: Tensor  # log-probability of each token under the policy that made it, [tokens]
    other: Tensor  # under the other one, [tokens]
    lengths: tuple[int, ...]  # tokens of each rollout, adding up to those above, [N]


@dataclass(slots=True)
class SharedPasses:
    """Prompts that are answered several times each, computed once per policy; the answers of a prompt are adjacent."""

    prompts: Prompts  # each once
    model_config: Any  # of the model
    stop: tuple[int, ...]  # tokens that end a completion
    prefixes: dict[str, Prefix] = field(default_factory=dict)  # kept of each policy that was asked, by its name

    def sample(self, party: Party, limit: int, copies: int) -> Tokens:
        """Completions at temperature 1, ``copies`` of each prompt, from torch's random state."""
        with party.use() as model:
            prefix, rows = self._following(party, model, copies)
            sampling = Sampling(limit, 1.0, 1.0, self.stop, never_sampled(self.model_config))
            return sample_after(model, prefix.repeated(rows), sampling)

    def tables(self, parties: Sequence[Party], completions: Tokens) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Tokens in the order of ``Seen``, [n], and their log-probabilities under each party, [n, V], part by part."""
        device = self.prompts.ids.device
        tokens = right_padded(completions, device)
        mask = right_padded([[1] * len(one) for one in completions], device)
        real = mask.bool()
        copies = len(completions) // len(self.prompts.ids)
        states = []
        for party in parties:
            with party.use() as model:
                followed = self._following(party, model, copies)
                states.append(completion_states(model, *followed, tokens, mask)[real])  # [tokens, H]
        part = max(1, LARGEST // self.model_config.get_text_config().vocab_size)
        for chosen, *each in zip(
            torch.split(tokens[real], part), *(torch.split(one, part) for one in states), strict=True
        ):
            logps = []
            for party, state in zip(parties, each, strict=True):
                with party.use() as model:
                    logps.append(plain(model).get_output_embeddings()(state).float().log_softmax(dim=-1))
            yield chosen, logps

    def _following(self, party: Party, model: Any, copies: int) -> tuple[Prefix, Tensor]:
        """The prompts' prefix, computed once for each policy, and which prompt each completion follows."""
        if party.name not in self.prefixes:
            self.prefixes[party.name] = prefill(model, self.prompts)
        rows = torch.arange(len(self.prompts.ids), device=self.prompts.ids.device).repeat_interleave(copies)
        meter_of(model).asked(self.prompts.mask[rows])
        return self.prefixes[party.name], rows


@dataclass(frozen=True, slots=True)
class PlainPasses:
    """Every prompt is repeated for each completion; for any model."""

    policy: Policy  # whose processor encodes the questions
    requests: tuple[Request, ...]  # each question once

    def sample(self, party: Party, limit: int, copies: int) -> Tokens:
        """As ``SharedPasses.sample``."""
        inputs = self.policy.encode(self._rows(copies))
        arguments = generation_arguments(Decoding(limit, temperature=1.0), self.policy.model.config)
        with party.use() as model:
            clear_rope_state(model)
            tokens = model.generate(**inputs, **arguments)
            clear_rope_state(model)
        stop = self.policy.ends
        return [ended(row, stop) for row in tokens[:, inputs["input_ids"].shape[1] :].tolist()]

    def tables(self, parties: Sequence[Party], completions: Tokens) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """As ``SharedPasses.tables``; at least one completion at a time, with its prompt."""
        requests = self._rows(len(completions) // len(self.requests))
        vocabulary = self.policy.model.config.get_text_config().vocab_size
        part = max(1, LARGEST // (vocabulary * max(map(len, completions))))
        for start in range(0, len(requests), part):
            rows = completions[start : start + part]
            inputs, tokens, real = followed(self.policy.encode(requests[start : start + part]), rows)
            length, logps = tokens.shape[1], []
            for party in parties:
                with party.use() as model:
                    keeps = "logits_to_keep" in signature(plain(model).forward).parameters
                    kept = {"logits_to_keep": length + 1} if keeps else {}
                    clear_rope_state(model)
                    logits = model(**inputs, use_cache=False, **kept).logits
                    clear_rope_state(model)
                # those from which the completions' tokens are predicted, [n, L, V]
                logps.append(logits[:, -length - 1 : -1].float()[real].log_softmax(-1))
                del logits  # before the next party makes its own
            yield tokens[real], logps

    def _rows(self, copies: int) -> list[Request]:
        return [one for one in self.requests for _ in range(copies)]


def followed(inputs: Any, completions: Tokens) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Encoded prompts with completions behind them; these, right-padded, and which of their tokens are real, [n, L]."""
    device = inputs["input_ids"].device
    tokens = right_padded(completions, device)
    mask = right_padded([[1] * len(one) for one in completions], device)
    behind = {"input_ids": tokens, "attention_mask": mask, **dict.fromkeys(TYPE_FIELDS, torch.zeros_like(tokens))}
    joined = {
        name: torch.cat([value, behind[name].to(value.dtype)], dim=1) if name in behind else value
        for name, value in inputs.items()
    }
    return joined, tokens, mask.bool()


Passes = SharedPasses | PlainPasses


def seen(passes: Passes, maker: Party, other: Party, completions: Tokens) -> Seen:
    """What the policy that made some completions and another one say about them."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for tokens, (first, second) in passes.tables([maker, other], completions):
        chosen = [table.gather(1, tokens[:, None]).squeeze(1) for table in (first, second)]
        parts.append((exact_kl(first, second), chosen[0], chosen[1]))
    kl, mine, theirs = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return Seen(kl, mine, theirs, tuple(len(one) for one in completions))
