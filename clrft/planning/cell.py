"""A cell with all that its work is counted from."""

from dataclasses import dataclass

from clrft.config.run_config import RunConfig
from clrft.memory.sharing import ALONE, Sharing
from clrft.planning.operation_counts import Passes
from clrft.planning.stream_statistics import Outline
from clrft.planning.streams import probe_of
from clrft.planning.token_lengths import Looked
from methods import build_method
from methods.base import Method


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a completion, end of sequence included.

    Attributes:
        train: of a rollout.
        test: of an answer in a test, by a policy that has learned.
        base: likewise by the base.
        probe: of an answer in the built-in probe.
        spread: the longest of a batch is so many times as long as the mean.
        limit: of the settings.
    """

    train: float
    test: float
    base: float
    probe: float
    spread: float
    limit: int

    def longest(self, mean: float) -> float:
        """Tokens of a batch's longest completion."""
        return min(mean * self.spread, max(mean, float(self.limit)))


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell with all that its work is counted from.

    Attributes:
        config: its settings.
        method: how it learns.
        outline: its stream.
        probe: a prompt of its built-in probe.
        passes: its model's calls.
        lengths: of its completions.
        sharing: its processes.
    """

    config: RunConfig
    method: Method
    outline: Outline
    probe: Looked
    passes: Passes
    lengths: Lengths
    sharing: Sharing = ALONE

    @classmethod
    def of(
        cls, config: RunConfig, outline: Outline, passes: Passes, lengths: Lengths, sharing: Sharing = ALONE
    ) -> "Cell":
        """The cell of some settings."""
        method = build_method(config.method_name, config.method, config.parts)
        return cls(config, method, outline, probe_of(config), passes, lengths, sharing)

    @property
    def trains(self) -> bool:
        """Whether anything is learned."""
        return self.method.family != "frozen"

    @property
    def stages(self) -> list[int]:
        """Stages, 0 among them."""
        last = len(self.outline)
        return [0, last] if self.method.joint else list(range(last + 1))

    def lead(self, tokens: float) -> float:
        """What the prompts of a batch begin with, as far as it may be computed once."""
        return tokens if self.config.train.share_prefix else 0.0

    def copies(self, stage: int) -> int:
        """Frozen copies of all weights that there are in a stage beside the policy: reference and anchor."""
        if self.passes.checkpoint.adapter:
            return 0
        anchor, reference = ("anchor" in self.method.needs, "reference" in self.method.needs)
        if anchor and self.method.anchor_rule.kind == "base":
            return 1
        return int(reference) + int(anchor and stage > 1 and not self.method.joint)


def frozen_models(method: Method, first: bool) -> int:
    """Models beside the policy that score rollouts: reference, and from the second task on the anchor."""
    anchor = "anchor" in method.needs and not first
    reference = "reference" in method.needs
    same = anchor and (method.anchor_rule.kind == "base" or method.kl_target == "anchor")
    return int(anchor) + int(reference and not same)
