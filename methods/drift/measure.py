"""Ask a policy and the policies before it about held-out items of a task: from questions to a ``Probe``."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from eval.judgement import COMPONENTS
from eval.score import score
from methods.drift.compared_policies import party, untouched
from methods.drift.items import GROUP_SIZE, OTHERS_SIZE, Against, Other, Probe
from methods.drift.log_ratio import drift
from methods.drift.rollouts import Party, Passes, PlainPasses, Seen, SharedPasses, Tokens, seen
from methods.generation.shared_prefix import obstacle
from methods.model.policy import Policy
from task_streams.prompt import request
from task_streams.prompt_style import PromptStyle
from task_streams.types import Example, Kind

PROMPTS = 8  # asked at a time, with all their completions


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked."""

    items: tuple[Example, ...]  # held-out items of the task that was learned, B of them
    labels: tuple[str, ...]  # classes that the prompts list
    kind: Kind  # what is asked about the items
    style: PromptStyle  # words of the prompts
    max_new_tokens: int  # longest completion
    seed: int  # of the completions
    share: bool = True  # compute a group's prompt once where the model allows it


def measure(
    policy: Policy,
    others: Mapping[Other, Callable[[], AbstractContextManager[Party]]],
    asked: Asked,
    on_prompts: Callable[[int], None] = lambda _: None,
) -> Probe:
    """What a policy's rollouts are worth, and how far they are from those of other policies.

    Args:
        policy: as the task left it; unchanged afterwards, and so is torch's random state.
        others: each is entered once, and left before the next one.
        asked: items, prompts and seed.
        on_prompts: called with the number of prompts answered, once for the policy and once for each other.
    """
    me = party(policy, policy.model, "policy")
    against: dict[Other, Against] = {}
    with untouched(policy, asked.seed):
        shared = asked.share and obstacle(policy.model) is None
        parts: list[Passes] = []  # each over a few prompts
        for start in range(0, len(asked.items), PROMPTS):
            items = asked.items[start : start + PROMPTS]
            requests = tuple(request(item, asked.labels, asked.style) for item in items)
            if shared:
                parts.append(SharedPasses(policy.prompts(requests), policy.model.config, tuple(policy.ends)))
            else:
                parts.append(PlainPasses(policy, requests))
        own = [sampled(passes, me, asked, place, GROUP_SIZE) for place, passes in enumerate(parts)]
        on_prompts(len(asked.items))
        for name, opened in others.items():
            with opened() as other:
                mine, theirs = [], []  # completions of the policy, and of the other, as both see them
                for place, (passes, completions) in enumerate(zip(parts, own, strict=True)):
                    others_own = sampled(passes, other, asked, place, OTHERS_SIZE)
                    mine.append(seen(passes, me, other, completions))
                    theirs.append(seen(passes, other, me, others_own))
                    if isinstance(passes, SharedPasses):
                        passes.prefixes.pop(other.name)
            against[name] = Against(
                drift=torch.cat([drift_of(one) for one in mine]),
                reverse=torch.cat([one.kl for one in mine]),
                forward=torch.cat([one.kl for one in theirs]),
            )
            on_prompts(len(asked.items))
    texts = policy.processor.batch_decode([tokens for part in own for tokens in part], skip_special_tokens=True)
    targets = [item.target for item in asked.items for _ in range(GROUP_SIZE)]
    judged = [score(text, target, asked.labels, asked.style) for text, target in zip(texts, targets, strict=True)]
    rewards = torch.tensor([sum(one.components.values()) for one in judged])  # [B*G]
    keys = tuple(item.key for item in asked.items)
    return Probe(keys, rewards, float(len(COMPONENTS[asked.kind])), against)


def sampled(passes: Passes, maker: Party, asked: Asked, place: int, copies: int) -> Tokens:
    """A policy's completions of one batch, ``copies`` of each prompt."""
    torch.manual_seed(asked.seed + place)
    return passes.sample(maker, asked.max_new_tokens, copies)


def drift_of(rollouts: Seen) -> Tensor:
    """Drift of every rollout from the other policy, [N]."""
    lengths = list(rollouts.lengths)
    maker, other, mask = (
        pad_sequence(list(torch.split(values, lengths)), batch_first=True)
        for values in (rollouts.maker, rollouts.other, torch.ones_like(rollouts.maker))
    )  # [N, L] each
    return drift(maker, other, mask)
