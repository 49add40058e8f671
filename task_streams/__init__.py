"""What is learned: examples, tasks, streams and prompts. ``STREAMS`` lists every stream there is."""

from typing import TYPE_CHECKING, Any

from task_streams.config import CilConfig, DilConfig, StreamConfig
from task_streams.errors import UserError
from task_streams.registry import STREAMS, Registry, StreamSpec
from task_streams.types import Example, Task, TaskStream

if TYPE_CHECKING:
    from task_streams.datasets.build import build_stream
    from task_streams.sources.records import Workspace

__all__ = [
    "STREAMS",
    "CilConfig",
    "DilConfig",
    "Example",
    "StreamConfig",
    "StreamSpec",
    "Task",
    "TaskStream",
    "UserError",
    "Workspace",
    "build_stream",
]
_LATER: Registry[Any] = Registry(
    {"Workspace": "task_streams.sources.records:Workspace", "build_stream": "task_streams.datasets.build:build_stream"}
)


def __getattr__(name: str) -> Any:
    """What needs the readers of data is imported when it is asked for."""
    if name in _LATER:
        return _LATER[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
