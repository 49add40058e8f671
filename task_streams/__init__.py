"""What is learned: examples, tasks, streams and prompts. ``STREAMS`` lists every stream there is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from task_streams import digits, folder
from task_streams.config import CilConfig, DilConfig, StreamConfig, seed_problems
from task_streams.errors import UserError, unknown_name
from task_streams.types import Example, Task, TaskStream

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
    "build_stream",
]


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream: its settings, how it is built, and where its data come from.

    Attributes:
        config: frozen dataclass of its settings.
        build: (config, order seed) to stream.
        summary: what it is, one line.
        licence: licence of the data.
        citation: whom to cite for the data.
    """

    config: type[StreamConfig]
    build: Callable[[Any, int], TaskStream]
    summary: str
    licence: str
    citation: str


STREAMS: dict[str, StreamSpec] = {
    "digits_cil": StreamSpec(
        digits.DigitsCilConfig,
        digits.digits_cil,
        "handwritten digits, new classes in each task",
        digits.LICENCE,
        digits.CITATION,
    ),
    "digits_dil": StreamSpec(
        digits.DigitsDilConfig,
        digits.digits_dil,
        "handwritten digits, all ten in each task, a new visual domain each time",
        digits.LICENCE,
        digits.CITATION,
    ),
    "folder_cil": StreamSpec(
        folder.FolderCilConfig,
        folder.folder_cil,
        "your own folder of labelled images, new classes in each task",
        folder.LICENCE,
        folder.CITATION,
    ),
    "folder_dil": StreamSpec(
        folder.FolderDilConfig,
        folder.folder_dil,
        "your own folder of labelled images by domain, a new domain in each task",
        folder.LICENCE,
        folder.CITATION,
    ),
}


def build_stream(name: str, config: StreamConfig, order_seed: int) -> TaskStream:
    """The stream of that name with its settings and class (or domain) order.

    Raises:
        UserError: unknown name, a seed out of range, or data that are not as the stream expects.
        TypeError: the settings of another stream.
    """
    if name not in STREAMS:
        raise UserError(unknown_name("stream", name, STREAMS))
    spec = STREAMS[name]
    if not isinstance(config, spec.config):
        raise TypeError(f"stream {name} takes {spec.config.__name__}, not {type(config).__name__}")
    if problems := seed_problems("order_seed", order_seed):
        raise UserError(*problems)
    return spec.build(config, order_seed)
