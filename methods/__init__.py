"""How it is learned: the method contract and one file per method.

``METHODS`` is the one visible dict of what is built in; ``registry`` adds plugins, ``build_method`` makes a method.
"""

from collections.abc import Sequence
from typing import Any

from methods.base import Method
from methods.compose import Composite
from methods.ewc import Ewc
from methods.frozen import ZeroShot
from methods.grpo import Grpo, JointGrpo
from methods.guard import guarded_method
from methods.l2 import L2
from methods.rapo import Rapo, RapoRetention, RapoScale
from methods.registry import method_class
from methods.replay import Replay
from methods.sft import JointSft, Sft

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        *(ZeroShot, Sft, Grpo, JointSft, JointGrpo),
        *(Rapo, RapoRetention, RapoScale),
        *(L2, Ewc, Replay),
    )
}


def build_method(name: str, config: Any, parts: Sequence[tuple[str, Any]] = ()) -> Method:
    """A fresh method with its config, an instance of its ``Config`` dataclass, and the parts that join it.

    Raises:
        UserError: an unknown name, or methods that cannot go together.
    """
    learner = guarded_method(method_class(name)(config))
    joined = [guarded_method(method_class(part)(settings)) for part, settings in parts]
    return Composite(learner, joined) if joined else learner
