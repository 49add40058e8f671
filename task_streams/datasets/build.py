"""A stream by its name, built of its data."""

from task_streams.config import StreamConfig, seed_problems
from task_streams.errors import UserError, unknown_name
from task_streams.prompt import in_style
from task_streams.registry import STREAMS
from task_streams.sources.library import rare_collection
from task_streams.sources.records import Workspace
from task_streams.types import TaskStream

NOTHING_KEPT = Workspace()


def build_stream(name: str, config: StreamConfig, order_seed: int, workspace: Workspace = NOTHING_KEPT) -> TaskStream:
    """The stream of that name with its settings and class (or domain) order.

    Raises:
        UserError: unknown name, a seed out of range, data that are not as the stream expects, or a prompt style without
            a wording for what it asks.
        TypeError: the settings of another stream.
    """
    if name not in STREAMS:
        raise UserError(unknown_name("stream", name, STREAMS))
    spec = STREAMS[name]
    if not isinstance(config, spec.config):
        raise TypeError(f"stream {name} takes {spec.config.__name__}, not {type(config).__name__}")
    if problems := seed_problems("order_seed", order_seed):
        raise UserError(*problems)
    with rare_collection():
        return in_style(spec.build(config, order_seed, workspace), config.style)
