"""How it is learned: the method contract and one file per method.

``METHODS`` is the one visible dict of what is built in; ``registry`` adds plugins, ``build_method`` makes a method.
"""

from collections.abc import Sequence
from typing import Any

from methods.anchored_kl import AnchoredKl
from methods.base import Method
from methods.compose import Composite
from methods.cpo import Cpo
from methods.ctan import Ctan
from methods.derpp import Derpp
from methods.ewc import Ewc
from methods.frozen import ZeroShot
from methods.grpo import Grpo, JointGrpo
from methods.guard import made_method
from methods.l2 import L2, L2Init
from methods.lwf import Lwf
from methods.olora import Olora
from methods.policy_losses import Dapo, DrGrpo, Gspo, Sapo
from methods.raft import Raft
from methods.rapo import Rapo, RapoRetention, RapoScale
from methods.registry import method_class
from methods.replay import Replay
from methods.rif import Rif
from methods.sdft import Sdft
from methods.sft import JointSft, Sft
from methods.shapers import SHAPERS
from methods.wise import Wise

_BUILT_IN: tuple[type[Method], ...] = (
    *(ZeroShot, Sft, Grpo, JointSft, JointGrpo),
    *(Rapo, RapoRetention, RapoScale),
    *(DrGrpo, Dapo, Gspo, Sapo, AnchoredKl),
    *(Raft, Sdft),
    *(L2, L2Init, Ewc, Replay),
    *(Ctan, Lwf, Wise, Cpo, Derpp, Olora),
    Rif,
    *SHAPERS,
)
METHODS: dict[str, type[Method]] = {method.name: method for method in _BUILT_IN}


def build_method(name: str, config: Any, parts: Sequence[tuple[str, Any]] = ()) -> Method:
    """A fresh method with its config, an instance of its ``Config`` dataclass, and the parts that join it.

    Raises:
        UserError: an unknown name, or methods that cannot go together.
    """
    learner = made_method(method_class(name), config)
    joined = [made_method(method_class(part), settings) for part, settings in parts]
    return Composite(learner, joined) if joined else learner
