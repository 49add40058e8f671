"""The least time that a turn can take on a device with a measured peak.

    floor = (F - D) / P + max(D / P, S * W / B)

F are the floating point operations that the model's calls came to, P the peak's operations a second, B its bytes a
second. Decoding goes token by token: each of its S steps reads the weights of the language model and of the output
head, W bytes, and its products are D = 2 * (weights) * (tokens decoded) of the operations. What is read beside the
weights (keys and values, activations) and the optimizer is left out, so a floor is too low rather than too high.
"""

from typing import Any

from benchmarks.engine.pairs import Turn
from benchmarks.engine.peak import Peak
from methods.costs.flops import shape_of

FORMULA = (
    "floor_seconds = (F - D) / P + max(D / P, S * W / B): F model_flops; P peak flops a second; B peak bytes a second; "
    "S decoding steps, each of which reads W bytes of weights; D = 2 * weights * decoded tokens, part of F"
)


def decoding_weights(model: Any) -> tuple[int, int]:
    """Weights that every decoding step multiplies with, and their bytes; a tied output head counts as it is read."""
    shape = shape_of(model)
    if shape is None:
        raise ValueError("a floor needs a model whose operations can be counted")
    weights = shape.language.weights + shape.head.weights
    return weights, weights * model.get_output_embeddings().weight.element_size()


def floor_seconds(flops: float, turn: Turn, weights: tuple[int, int], peak: Peak) -> float:
    """The formula at the head of this file.

    Args:
        flops: of the turn, F.
        turn: its decoding steps and the tokens decoded in them.
        weights: number and bytes of the weights that a decoding step reads.
        peak: of the device.
    """
    number, size = weights
    decoding = 2 * number * turn.decoded
    reading = turn.decode_steps * size / peak.bandwidth
    return (flops - decoding) / peak.flops + max(decoding / peak.flops, reading)
