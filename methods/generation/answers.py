"""Answers to questions about items, batch after batch, by a policy as it is now: what one batch leaves to the next."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from methods.costs.meter import meter_of
from methods.generation.image_cache import ImageMemory
from methods.generation.rollout import Sampling, sample_after
from methods.generation.shared_prefix import plain, prefill
from methods.generation.speculative_decoding import Drafts
from methods.generation.static_decode import StaticSteps, sample_static
from methods.inputs.prompts import Prompts
from task_streams.prompt import Request


@dataclass(frozen=True, slots=True)
class Session:
    """Questions to a policy whose weights stand still meanwhile; answers are the same without.

    Attributes:
        drafts: guesses how answers go on, learned from those before.
        images: what the vision tower makes of items' images.
        steps: recorded steps to decode with, in place of guesses; None: the cache grows.
    """

    drafts: Drafts = field(default_factory=Drafts)
    images: ImageMemory = field(default_factory=ImageMemory)
    steps: StaticSteps | None = None


@torch.no_grad()
def answered(
    model: Any, requests: Sequence[Request], prompts: Prompts, sampling: Sampling, session: Session | None
) -> list[list[int]]:
    """A completion of every question, as token lists.

    Args:
        model: that answers.
        requests: the questions, N of them.
        prompts: the same, encoded.
        sampling: how tokens are drawn.
        session: what questions before these have left; None: nothing.
    """
    meter_of(model).asked(prompts.mask)
    rows = torch.arange(len(requests), device=prompts.ids.device)
    features = None
    if session is not None and prompts.images is not None:
        names = [(one.key, place) for one in requests for place in range(len(one.images))]
        features = session.images.features(plain(model).model, names, prompts.images)
    if session is not None and session.steps is not None:
        return sample_static(session.steps, model, prefill(model, prompts, features), rows, sampling)
    following = prefill(model, prompts, features).repeated(rows)
    return sample_after(model, following, sampling, None if session is None else session.drafts)
