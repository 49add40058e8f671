"""The application, and its public Python API: what is named here is imported when it is asked for.

config = clrft.build_config("digits_cil", "rapo", seed=1993)
folder = clrft.run(config)
print(clrft.read_run(folder).matrix.to_table())
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clrft.analysis.compare import compare
    from clrft.config.run_config import RunConfig, build_config, parse_overrides
    from clrft.config.sweeps import load_sweep
    from clrft.runner.run_cell import run_alone as run
    from clrft.runs.read import RunRecord, find_runs, read_run

__all__ = [
    "RunConfig",
    "RunRecord",
    "build_config",
    "compare",
    "find_runs",
    "load_sweep",
    "parse_overrides",
    "read_run",
    "run",
]
_WHERE = {
    "RunConfig": "config.run_config",
    "RunRecord": "runs.read",
    "build_config": "config.run_config",
    "compare": "analysis.compare",
    "find_runs": "runs.read",
    "load_sweep": "config.sweeps",
    "parse_overrides": "config.run_config",
    "read_run": "runs.read",
    "run": "runner.run_cell:run_alone",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute or name)
