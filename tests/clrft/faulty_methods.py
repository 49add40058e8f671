"""Plugin files with a fault each, as users write them."""

import re
from pathlib import Path

HEAD = '''
from dataclasses import dataclass
import torch
from methods.base import Method

@dataclass(frozen=True)
class Config:
    """Settings."""
    weight: float = 1.0
    """A weight."""

class Faulty(Method):
    name = "{name}"
    family = "part"
    joins = frozenset({{"{joins}"}})
    Config = Config
    calls = 0
'''

FAULTY = """
# raises
    def after_step(self, task_index, step):
        raise KeyError("lost")

# gives_nan
    def shape_rewards(self, rewards, rollouts):
        return rewards * float("nan")

# wrong_shape
    def shape_rewards(self, rewards, rollouts):
        return rewards.view(-1, rollouts.group_size)

# mutates_anchor
    needs = frozenset({"anchor"})

    def loss_terms(self, context):
        if context.anchor is not None:
            with context.anchor.active() as model, torch.no_grad():
                next(model.parameters()).view(-1)[0] += 1
        return {}

# forgets
    def after_step(self, task_index, step):
        self.calls += 1

    def loss_terms(self, context):
        weight = next(one for one in context.model.parameters() if one.requires_grad)
        return {"pull": self.calls * weight.square().mean()}

# forks
    def loss_terms(self, context):
        weights = [weight for weight in context.model.parameters() if weight.requires_grad]
        moved = sum((weight - weight.detach()).square().sum() for weight in weights)
        return {"moved": moved.sqrt()}

# forks_alone
    def loss_terms(self, context):
        rows = context.logits.mean(dim=(1, 2))
        return {"spread": 0.0 * rows.var(unbiased=False).sqrt()}

# adds_a_constant
    def shape_rewards(self, rewards, rollouts):
        rewards += 0.5
        return rewards

# has_no_gradient
    def loss_terms(self, context):
        return {"size": sum(weight.detach().square().sum() for weight in context.model.parameters())}

# adapters_only
    def problems(self, policy, tasks):
        return [] if policy.has_adapter else ["It holds adapters apart; expected model.adapter=lora."]

# no_adapters
    def problems(self, policy, tasks):
        return ["It moves all weights; expected model.adapter=none."] if policy.has_adapter else []

# takes_nothing
    def problems(self, policy, tasks):
        return [f"It takes {len(tasks) + 1} tasks."]

# looks_back
    earlier = now = ()

    def before_task(self, context):
        self.earlier, self.now = self.now, context.task.train
        context.anchor

    def loss_terms(self, context):
        for example in self.earlier[:1]:
            example.media()
        return {"count": next(context.model.parameters()).sum() * len(context.inputs["input_ids"])}
"""
# The body of a class by the name of its fault.
FAULTS = dict(re.findall(r"^# (\w+)\n(.*?)\n(?=\n# |\Z)", FAULTY, re.M | re.S))


def faulty(name: str, folder: Path) -> Path:
    """A plugin file with the fault of that name; the method has the same name, and joins the one family that it can."""
    joins = "reinforcement" if "shape_rewards" in FAULTS[name] else "supervised"
    path = folder / f"{name}.py"
    path.write_text(HEAD.format(name=name, joins=joins) + FAULTS[name] + "\n")
    return path
