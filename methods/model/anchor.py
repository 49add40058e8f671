"""The anchor of every task: which policy a method's ``anchor_rule`` names, made, kept and put back after a restart.

Full weights and LoRA adapters alike, but for the average: the average of an adapter's two factors is not that of their
products, so a moving average of adapters is refused. The base of an adapter is the adapter before any training, whose
product is zero.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from methods.base import AnchorRule, Method
from methods.model.policy import Policy
from methods.model.snapshots import FullSnapshot, Snapshot


def anchor_problems(method: Method, policy: Policy) -> list[str]:
    """Sentences about an anchor that a policy cannot have."""
    if "anchor" in method.needs and method.anchor_rule.kind == "average" and policy.has_adapter:
        return [
            f"method {method.name!r}: the anchor average cannot be made of LoRA adapters (the average of their factors "
            "is not that of their products); expected the anchor previous, first or base, or model.adapter=none."
        ]
    return []


class Anchors:
    """Gives each task its anchor by a rule. Made before any training: the base is the policy as it is then.

    ``reference``: a snapshot of the base that is there anyway, so that no second one is made.
    """

    def __init__(self, rule: AnchorRule, policy: Policy, reference: Snapshot | None = None) -> None:
        self.rule = rule
        self.policy = policy
        self.kept: Snapshot | None = None  # an anchor that outlives its task
        self.average: dict[str, Tensor] = {}  # in float32, of which the anchor has what its type can hold
        if rule.kind == "base":
            self.kept = reference if isinstance(reference, FullSnapshot) else policy.snapshot(asked_only=True)

    def begin(self) -> Snapshot:
        """The anchor of the task that begins now, the second or a later one; call it before the first update."""
        if self.rule.kind == "previous":
            return self.policy.snapshot(asked_only=True)
        return self.kept or self.keep()

    def keep(self) -> Snapshot:
        """Let the policy as it is now be the anchor, or the beginning of the average."""
        self.kept = self.policy.snapshot(asked_only=True)
        if self.rule.kind == "average":
            now = self.policy.model.named_parameters()
            self.average = {name: weight.detach().float().to("cpu", copy=True) for name, weight in now}
        return self.kept

    @torch.no_grad()
    def end(self) -> None:
        """Take in the policy as a task, any of them, has left it."""
        if not self.average or self.kept is None:
            return
        learned, momentum = dict(self.policy.model.named_parameters()), self.rule.momentum
        anchor = self.kept.weights()
        for name, average in self.average.items():
            average.mul_(momentum).add_(learned[name].to(average.device).float(), alpha=1 - momentum)
            anchor[name].copy_(average)

    def unlike_policy(self) -> dict[str, Tensor]:
        """What the next task's anchor is made of, where the policy's own weights and the base do not tell; by name."""
        if self.kept is None or self.rule.kind == "base":
            return {}
        return self.average or self.kept.weights()

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Put back what ``unlike_policy`` gave.

        Raises:
            ValueError: the tensors are not those of this policy; nothing was changed.
        """
        snapshot = self.policy.snapshot(asked_only=True)
        own = snapshot.weights()
        strange = sorted(own.keys() ^ weights.keys())
        strange += [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
        if strange:
            raise ValueError(f"{len(strange)} tensors are missing or of another policy, e.g. {strange[0]}")
        for name, weight in own.items():
            weight.copy_(weights[name])
        self.kept = snapshot
        if self.rule.kind == "average":
            self.average = {name: weight.float() for name, weight in weights.items()}
