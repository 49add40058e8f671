"""How a stream is registered: settings, builder, and where its data come from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from task_streams.config import StreamConfig
from task_streams.records import Workspace
from task_streams.types import TaskStream


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream: its settings, how it is built, and where its data come from.

    Attributes:
        config: frozen dataclass of its settings.
        build: (config, order seed, workspace) to stream.
        summary: what it is, one line.
        licence: licence of the data.
        citation: whom to cite for the data.
    """

    config: type[StreamConfig]
    build: Callable[[Any, int, Workspace], TaskStream]
    summary: str
    licence: str
    citation: str
