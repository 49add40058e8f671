"""In which type trained weights are held, what the model computes in, and which AdamW moves them.

An update of 1e-6 is far smaller than the distance between neighbouring bfloat16 numbers at most weights: rounded at
every step, almost none of it arrives. Two ways keep all of it:

- ``adamw_float32``: weights in float32, matrices applied in the model's type by autocast (TRL's ``bf16=True``).
- ``adamw_kahan``: weights in the model's type, and beside each the part of its updates that it has no room for yet
  (``optimizers.py``), as the ``adamw_bf16`` of RaPO's released code has it. Half the memory.

``adamw`` rounds the weights at every update. An adapter's weights are float32 (PEFT), whatever the model's type.
"""

from dataclasses import dataclass

import torch

from methods.base import Method
from methods.guard import members_of
from methods.model.config import ModelConfig, choose_device, choose_dtype
from methods.settings import AUTO, KAHAN, PLAIN, WIDE
from task_streams.errors import UserError


@dataclass(frozen=True, slots=True)
class Numerics:
    """How trained weights are held and moved."""

    optimizer: str  # ``adamw_float32``, ``adamw_kahan`` or ``adamw``
    weights: torch.dtype  # type of the model's weights
    compute: torch.dtype  # type that matrices are applied in

    @property
    def autocasts(self) -> bool:
        """Whether the model computes in another type than its weights have."""
        return self.weights != self.compute

    def describe(self) -> dict[str, str]:
        """Plain values, for the manifest: ``dtype`` is what is computed in."""
        dtype, weights = (str(kind).removeprefix("torch.") for kind in (self.compute, self.weights))
        return {"dtype": dtype, "weights": weights, "optimizer": self.optimizer}


def numerics_of(config: ModelConfig, optimizer: str) -> Numerics:
    """What a model's settings and an optimizer, one that is decided, come to.

    Raises:
        UserError: the two do not go together.
    """
    if optimizer == AUTO:
        raise ValueError("which optimizer auto stands for is decided before the model is loaded")
    compute = choose_dtype(config, choose_device(config))
    if config.adapter != "none" or compute == torch.float32:
        if optimizer == KAHAN:
            held = "an adapter's weights are" if config.adapter != "none" else "model.dtype=float32 has them"
            raise UserError(
                f"train.optimizer: got {KAHAN}, which compensates for weights in bfloat16, but {held} in float32; "
                f"expected {AUTO} or {PLAIN}."
            )
        return Numerics(PLAIN, compute, compute)
    return Numerics(optimizer, torch.float32 if optimizer == WIDE else compute, compute)


def looking_at_weights(method: Method) -> list[str]:
    """Members of a method that look at weights, where a compensation hides part of how far these have moved."""
    return [one.name for one in members_of(method) if not one.works_split]


def training_problems(method: Method, numerics: Numerics, adapter: bool) -> list[str]:
    """Sentences about what a method cannot be trained with; ``adapter``: it trains an adapter alone."""
    if method.family == "frozen" or adapter:
        return []
    problems = []
    if numerics.compute == torch.float16:
        problems.append(
            "model.dtype: got float16, in which small gradients are lost without a scaling of the loss, which is not "
            "done here; expected bfloat16 or float32, or model.adapter=lora."
        )
    if numerics.optimizer == KAHAN:
        problems += [
            f"method {name!r} looks at weights, and with train.optimizer={KAHAN} their movement is not in them alone; "
            f"expected {WIDE}, or model.adapter=lora."
            for name in looking_at_weights(method)
        ]
    return problems


def keeps_all(config: ModelConfig) -> bool:
    """Whether trained weights are float32 whatever the optimizer, so that none has to be chosen."""
    return config.adapter != "none" or choose_dtype(config, choose_device(config)) == torch.float32
