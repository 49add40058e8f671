"""Plugin files with a fault each, as users write them."""

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

FAULTS = {
    "raises": (
        "supervised",
        """
    def after_step(self, task_index, step):
        raise KeyError("lost")
""",
    ),
    "gives_nan": (
        "reinforcement",
        """
    def shape_rewards(self, rewards, rollouts):
        return rewards * float("nan")
""",
    ),
    "wrong_shape": (
        "reinforcement",
        """
    def shape_rewards(self, rewards, rollouts):
        return rewards.view(-1, rollouts.group_size)
""",
    ),
    "mutates_anchor": (
        "supervised",
        """
    needs = frozenset({"anchor"})

    def loss_terms(self, context):
        if context.anchor is not None:
            with context.anchor.active() as model, torch.no_grad():
                next(model.parameters()).view(-1)[0] += 1
        return {}
""",
    ),
    "forgets": (
        "reinforcement",
        """
    def after_step(self, task_index, step):
        self.calls += 1

    def shape_rewards(self, rewards, rollouts):
        return rewards + self.calls * (rollouts.mask.sum(dim=1) % 3)
""",
    ),
    "looks_back": (
        "supervised",
        """
    earlier = now = ()

    def before_task(self, context):
        self.earlier, self.now = self.now, context.task.train
        context.anchor

    def loss_terms(self, context):
        for example in self.earlier[:1]:
            example.media()
        return {"count": next(context.model.parameters()).sum() * len(context.inputs["input_ids"])}
""",
    ),
}


def faulty(name: str, folder: Path) -> Path:
    """A plugin file with the fault of that name; the method has the same name."""
    joins, body = FAULTS[name]
    path = folder / f"{name}.py"
    path.write_text(HEAD.format(name=name, joins=joins) + body)
    return path
