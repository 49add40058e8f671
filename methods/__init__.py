"""How it is learned: the method contract and one file per method.

``METHODS`` is the one visible dict of what there is; ``build_method`` looks a name up in it.
"""

from typing import Any

from methods.base import Method
from methods.frozen import ZeroShot
from methods.grpo import Grpo, JointGrpo
from methods.rapo import Rapo, RapoRetention, RapoScale
from methods.sft import JointSft, Sft
from task_streams.errors import UserError, unknown_name

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (ZeroShot, Sft, Grpo, Rapo, RapoRetention, RapoScale, JointSft, JointGrpo)
}


def method_class(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        UserError: no method has that name; the nearest one is suggested.
    """
    if name not in METHODS:
        raise UserError(unknown_name("method", name, METHODS))
    return METHODS[name]


def build_method(name: str, config: Any) -> Method:
    """A fresh method with its config, an instance of its ``Config`` dataclass."""
    return method_class(name)(config)
