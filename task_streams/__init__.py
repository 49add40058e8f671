"""What is learned: examples, tasks, streams and prompts. ``STREAMS`` lists every stream there is."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from task_streams.config import CilConfig, DilConfig, StreamConfig
from task_streams.errors import UserError
from task_streams.registry import STREAMS, StreamSpec
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
_LATER = {"build_stream": "task_streams.datasets.build", "Workspace": "task_streams.sources.records"}


def __getattr__(name: str) -> Any:
    """What needs the readers of data is imported when it is asked for."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
