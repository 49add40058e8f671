"""A stream by its name, built of its data."""

from task_streams.config import MAX_SEED, StreamConfig
from task_streams.errors import UserError, unknown_name
from task_streams.prompt import in_style
from task_streams.registry import STREAMS
from task_streams.sources.layout import links_anywhere
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
    if not 0 <= order_seed <= MAX_SEED:
        raise UserError(f"order_seed is {order_seed}; expected 0 to {MAX_SEED}")
    token = links_anywhere.set(getattr(config, "links", "inside") == "anywhere")
    try:
        with rare_collection():
            return in_style(spec.build(config, order_seed, workspace), config.style)
    finally:
        links_anywhere.reset(token)
