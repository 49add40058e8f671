"""Why a run on several processes would be refused, told before anything runs: by the checks that such a run makes."""

from functools import cache

from clrft.config.run_config import RunConfig
from clrft.memory.checkpoint_shape import weightless
from clrft.memory.sharing import Sharing
from clrft.runner.prepare import split_problems
from clrft.runner.state import Run
from clrft.utils.progress import Silent
from methods import build_method
from methods.model.config import ModelConfig
from methods.model.policy import Policy
from methods.training.budget import rows_per_update
from task_streams.types import TaskStream

NO_STREAM = TaskStream("none", "cil", 0, ())  # these checks look at none


def sharing_problems(config: RunConfig, sharing: Sharing) -> list[str]:
    """Sentences about settings with which several processes cannot share a run; none for one process."""
    if sharing.processes == 1:
        return []
    method = build_method(config.method_name, config.method, config.parts)
    problems = []
    if method.family == "reinforcement":
        train, rows = config.train, rows_per_update(method, config.train)
        if not train.share_prefix:
            problems.append("train.share_prefix: got false, expected true: else processes cannot share rollouts.")
        if train.rollouts != "own":
            problems.append(f"train.rollouts: got {train.rollouts!r}, expected own: vLLM's are not dealt out.")
        if rows // train.accumulation < sharing.processes:
            problems.append(
                f"train.prompts_per_update: an update's {rows} rollouts in {train.accumulation} parts are fewer than "
                f"{sharing.processes} for a part; expected at least one for each of the {sharing.processes} processes."
            )
    if sharing.split:
        problems += split_problems(Run(config, NO_STREAM, weightless_policy(config.model), method, Silent()))
    return problems


@cache
def weightless_policy(config: ModelConfig) -> Policy:
    """The policy of some settings, without weights and processor."""
    return Policy(weightless(config), None, config, "sdpa")
