"""Why a run on several processes would be refused, told before anything runs: by the checks that such a run makes."""

from functools import cache

from clrft.config import RunConfig
from clrft.plan.checkpoint import weightless
from clrft.plan.sharing import Sharing
from clrft.progress import Silent
from clrft.run import split_problems
from clrft.state import Run
from methods import build_method
from methods.fit import rows_per_update
from methods.model_config import ModelConfig
from methods.policy import Policy
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
