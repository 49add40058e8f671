"""torch, imported when it is first used: a method's file can be read for its settings without the seconds that takes.

A file that takes ``torch`` from here begins with ``from __future__ import annotations``.
"""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    import torch as torch
    from torch import Tensor as Tensor
    from torch import nn as nn
    from torch.nn import functional as functional
else:

    class Later:
        """A module that is imported when something of it is asked for."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(import_module(self._name), attribute)

    torch, nn, functional = Later("torch"), Later("torch.nn"), Later("torch.nn.functional")
    Tensor = "Tensor"  # in annotations alone

P = ParamSpec("P")
T = TypeVar("T")


def no_grad(call: Callable[P, T]) -> Callable[P, T]:
    """``torch.no_grad`` over a function."""

    @wraps(call)
    def without_gradients(*arguments: P.args, **named: P.kwargs) -> T:
        with torch.no_grad():
            return call(*arguments, **named)

    return without_gradients
