"""The application, and its public Python API: what is named here is imported when it is asked for.

config = clrft.build_config("digits_cil", "rapo", seed=1993)
folder = clrft.run(config)
print(clrft.read_run(folder).matrix.to_markdown())
"""

from typing import TYPE_CHECKING, Any

from task_streams.registry import Registry

if TYPE_CHECKING:
    from clrft.analysis.compare import compare
    from clrft.config.run_config import RunConfig, build_config, parse_overrides
    from clrft.config.sweeps import load_sweep
    from clrft.runner.run import run_alone as run
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
_API: Registry[Any] = Registry(
    {
        "RunConfig": "clrft.config.run_config:RunConfig",
        "RunRecord": "clrft.runs.read:RunRecord",
        "build_config": "clrft.config.run_config:build_config",
        "compare": "clrft.analysis.compare:compare",
        "find_runs": "clrft.runs.read:find_runs",
        "load_sweep": "clrft.config.sweeps:load_sweep",
        "parse_overrides": "clrft.config.run_config:parse_overrides",
        "read_run": "clrft.runs.read:read_run",
        "run": "clrft.runner.run:run_alone",
    }
)


def __getattr__(name: str) -> Any:
    if name in _API:
        return _API[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
