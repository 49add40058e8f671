"""What has to be assumed where nothing is measured: how long completions are."""

from statistics import fmean

from clrft.config.run_config import RunConfig
from clrft.planning.cell import Lengths
from clrft.planning.stream_statistics import Outline
from methods import build_method

THOUGHT = 60  # tokens of a thought before the answer, beside the answer itself
SPREAD = 2.0  # the longest of a batch's completions to their mean


def assumed_lengths(config: RunConfig, outline: Outline, completion: int | None, times: float = 1.0) -> Lengths:
    """Lengths of completions by the right answers' length.

    A policy that was trained on targets answers as they do; any other thinks before.

    Args:
        config: a cell's settings.
        outline: its stream.
        completion: tokens of a completion that thinks; None: by the right answers.
        times: so many times as long.
    """
    limit = config.train.max_completion_tokens
    target = fmean(task.target for task in outline.tasks)
    free = float(completion or target + (THOUGHT if config.stream.think else 0)) * times
    supervised = build_method(config.method_name, config.method, config.parts).family == "supervised"
    free, target = min(free, float(limit)), min(target, float(limit))
    return Lengths(free, target if supervised else free, free, free, SPREAD, limit)
