"""Whether the processes of a run are one run: settings, code, plugins, packages, device and base, compared over ranks.

Each process decides for itself from its own copy of these, so that two that differ would train on in silence. Where
data and checkpoint lie may differ, as with copies on each machine: what is in them is compared, the base here, the data
against the manifest (``clrft/runner/run.py``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from clrft.config.run_config import RunConfig
from clrft.runner.prepare import current_base
from clrft.runs.manifest import flat
from clrft.runs.provenance import source_hash, versions
from clrft.utils.progress import Reporter
from methods.distributed import ranks
from methods.model.config import choose_device
from methods.registry import method_class, plugin_digests
from task_streams.errors import UserError, brief

PLACES = ("stream.root", "model.path", "run.plugins")
REMEDY = "Every process of a run needs the same command, code, packages and base: start them alike."


def check_same_run(config: RunConfig, reporter: Reporter) -> None:
    """Refuse, in every process alike and before any work, a run whose processes differ.

    Raises:
        UserError: all that differs, by process; or what is wrong with this process's device or base.
    """
    if ranks.world_size() == 1:
        return
    gathered = ranks.all_gather_json(ranks.all_or_fail(lambda: facts_of(config)))
    if not (problems := differences(gathered)):
        ranks.on_rank0(lambda: current_base(config, reporter).identity)  # whose digests the others find in the cache
        own = ranks.all_or_fail(lambda: current_base(config, reporter).facts())
        problems = differences([{"base": one} for one in ranks.all_gather_json(own)])
    if problems:
        raise UserError(*problems, REMEDY)


def facts_of(config: RunConfig) -> dict[str, Any]:
    """What decides a run in this process beside its data and base, by dotted name."""
    settings = {name: value for name, value in flat(config.to_dict()).items() if name not in PLACES}
    plugins = plugin_digests([method_class(name) for name in (config.method_name, *dict(config.parts))])
    return {
        **settings,
        **{f"version of {name}": version for name, version in versions().items()},
        "code (SHA-256)": source_hash(),
        "plugins (SHA-256)": sorted(plugins.values()),
        "device": choose_device(config.model).type,
    }


def differences(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each fact, nested ones by their dotted names, that is not the same in every process."""
    many = [flat(part) for part in parts]
    problems = []
    for name in dict.fromkeys(name for one in many for name in one):
        processes: dict[str, list[str]] = {}
        for rank, one in enumerate(many):
            told = brief(one[name]) if name in one else "missing"
            processes.setdefault(told, []).append(str(rank))
        if len(processes) > 1:
            sides = [f"{told} in process {', '.join(where)}" for told, where in processes.items()]
            problems.append(f"{name} is {' and '.join(sides)}.")
    return problems
