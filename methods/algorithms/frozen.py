"""Zero-shot: the base model on every task, untrained; its matrix is the floor of every comparison."""

from dataclasses import dataclass

from methods.base import Method


@dataclass(frozen=True)
class ZeroShotConfig:
    """Zero-shot has no settings."""


class ZeroShot(Method):
    """Evaluate the base after every task without training it."""

    name, family = "zero_shot", "frozen"
    works_split = True
    Config = ZeroShotConfig
    source = "bound"
