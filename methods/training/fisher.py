"""Diagonal Fisher information of the trained weights: mean squared gradients of log-likelihoods of completions.

Completions are drawn from the policy itself, as the definition asks for (arXiv 1612.00796 takes them from the model
too; taking the labels instead gives the "empirical" Fisher, which is another quantity: arXiv 1905.12558).
"""

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from methods.model.config import Decoding
from methods.model.policy import Policy
from methods.model.weights import trained_weights
from methods.training.targets import log_likelihood, target_inputs
from task_streams.prompt import request
from task_streams.prompt_style import PromptStyle
from task_streams.scenarios.draw import shuffled
from task_streams.types import Example


def diagonal_fisher(
    policy: Policy,
    examples: Sequence[Example],
    labels: Sequence[str],
    style: PromptStyle,
    *,
    max_new_tokens: int,
    items: int,
    seed: int,
) -> dict[str, Tensor]:
    """F_i = E[(d log p(y | x) / d theta_i)^2], y drawn from the policy; by parameter name, in float32.

    One completion of each of ``items`` examples, of at most ``max_new_tokens``; ``seed`` is of the choice and of the
    completions. The policy is left as it was.
    """
    chosen = list(islice(shuffled(examples, seed, "fisher"), items))
    weights = dict(trained_weights(policy.model))
    fisher = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    was_training = policy.model.training
    policy.model.eval()
    for number, example in enumerate(chosen):
        asked = request(example, labels, style)
        decoding = Decoding(max_new_tokens, temperature=1.0, seed=seed + number)
        inputs = target_inputs(policy, [asked], policy.generate([asked], decoding))
        with policy.computing():
            likelihood = log_likelihood(policy.model, inputs)
        gradients = torch.autograd.grad(likelihood, list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                fisher[name] += gradient.float().square() / len(chosen)
    policy.model.train(was_training)
    return fisher
