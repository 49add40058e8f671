"""A method's own loss terms, in any trainer."""

import torch
from torch import Tensor

from methods.base import LossContext, Method
from methods.distributed import ranks


def extra_loss(method: Method, context: LossContext, share: float) -> Tensor | None:
    """Sum of a method's loss terms, each logged by its name; None if it has none.

    ``share`` is that of the micro-batch's rows which this process has: the terms of all processes are their mean.
    """
    terms = method.loss_terms(context)
    for name, term in terms.items():
        context.log(name, ranks.summed(term.detach() * share).item())
    return torch.stack(list(terms.values())).sum() * share if terms else None
